/* The measurement: warm-up, then timed runs. */
#ifndef ANDROID_BENCH_BENCH_H
#define ANDROID_BENCH_BENCH_H

#include <stdint.h>

#include "error.h"
#include "profile.h"
#include "runtime.h"

/* At least `runs` runs and `min_secs`; no run is begun that would end after `max_secs`, save the very first. */
struct limits {
  long runs;
  double min_secs, max_secs;
};

struct timings {
  uint64_t* samples_ns;
  size_t count, room;
  uint64_t wall_ns;
  bool cut_short; /* max_secs came first */
};

/* Nanoseconds of a clock that only goes forward. */
uint64_t bench_now_ns(void);

/* Runs and times until limits are met; only the inference itself is inside a sample. limits.runs may be 0 (a warm-up
 * that is not wanted). With a profile, the events of every run are added to it. Returns 0, or -1 (EXIT_RUN,
 * EXIT_MEMORY). */
int bench_run(struct runtime* runtime, const struct limits* limits, struct timings* timings, struct profile* profile,
              struct error* error);

#endif
