#include "bench.h"

#include <stdlib.h>
#include <time.h>

uint64_t bench_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int make_room(struct timings* timings) {
  if (timings->count < timings->room) return 0;
  size_t room = timings->room ? 2 * timings->room : 1024;
  uint64_t* samples_ns = realloc(timings->samples_ns, room * sizeof *samples_ns);
  if (!samples_ns) return -1;
  timings->samples_ns = samples_ns;
  timings->room = room;
  return 0;
}

/* LiteRT's buffer of events is large but finite and drops what comes late: it is emptied after every run. */
static int collect_events(struct runtime* runtime, struct profile* profile, struct error* error) {
  int count = 0;
  litert_status status = runtime->call.event_count(runtime->profiler, &count);
  struct litert_event* events = calloc((size_t)(count > 0 ? count : 1), sizeof *events);
  if (!events) return fail_memory(error);
  if (!status && count > 0) status = runtime->call.events(runtime->profiler, count, events);
  int no_memory = !status && profile_add_run(profile, events, (size_t)(count > 0 ? count : 0));
  free(events);
  if (no_memory) return fail_memory(error);
  if (!status) status = runtime->call.start_profiler(runtime->profiler); /* clears; "reset" would also stop */
  if (!status) return 0;
  return fail(error, EXIT_RUN, "reading the profile failed (status %d): leave out --profile, or use LiteRT 2.3",
              status);
}

static int time_one(struct runtime* runtime, struct timings* timings, uint64_t* sample_ns, struct error* error) {
  if (make_room(timings)) return fail_memory(error);
  uint64_t start_ns = bench_now_ns();
  litert_status status = runtime_invoke(runtime);
  *sample_ns = bench_now_ns() - start_ns;
  if (status) {
    return fail(error, EXIT_RUN,
                "run %zu failed (status %d): check that the model runs in LiteRT elsewhere, then try again",
                timings->count + 1, status);
  }
  timings->samples_ns[timings->count++] = *sample_ns;
  return 0;
}

static bool is_enough(const struct limits* limits, const struct timings* timings, uint64_t elapsed_ns) {
  return timings->count >= (size_t)limits->runs && (double)elapsed_ns >= limits->min_secs * 1e9;
}

int bench_run(struct runtime* runtime, const struct limits* limits, struct timings* timings, struct profile* profile,
              struct error* error) {
  uint64_t begin_ns = bench_now_ns(), shortest_ns = UINT64_MAX, sample_ns;
  while (timings->wall_ns = bench_now_ns() - begin_ns, !is_enough(limits, timings, timings->wall_ns)) {
    if (timings->count && (double)(timings->wall_ns + shortest_ns) > limits->max_secs * 1e9) {
      timings->cut_short = true;
      return 0;
    }
    if (time_one(runtime, timings, &sample_ns, error)) return -1;
    if (profile && collect_events(runtime, profile, error)) return -1;
    if (sample_ns < shortest_ns) shortest_ns = sample_ns;
  }
  return 0;
}
