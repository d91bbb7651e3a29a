/* android_bench: parse, load, warm up, time, print. README.md is the contract. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "args.h"
#include "bench.h"
#include "crash.h"
#include "device.h"
#include "modelfile.h"
#include "outfile.h"
#include "report.h"

/* libLiteRt.so in the folder of this program; of the loader, where the program was started through one. */
static const char* library_beside_program(void) {
  static char path[PATH_MAX + sizeof "libLiteRt.so"];
  ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
  while (length > 0 && path[length - 1] != '/') length--;
  strcpy(path + (length > 0 ? length : 0), "libLiteRt.so");
  return path;
}

/* Checks all that can be checked before the runtime is loaded, so that mistakes cost no time. */
static int prepare(struct session* session, struct error* error) {
  const struct args* args = session->args;
  if (args->out && outfile_check(args->out, error)) return -1;
  if (modelfile_check(args->model, &session->model_bytes, error)) return -1;
  if (args->cpu_mask && device_pin(args->cpu_mask, error)) return -1;
  if (args->threads <= device_cpu_count()) return 0;
  return fail(error, EXIT_CPU,
              "--threads %d needs as many CPUs, but only %d are available: request fewer, or widen --cpu-mask",
              args->threads, device_cpu_count());
}

/* A run cannot be interrupted, so --max-secs alone would not end one that hangs. Generous: never meant to be met. */
static double deadline_secs(const struct args* args) {
  return 2 * args->max_secs + 30;
}

static int load(struct session* session, struct error* error) {
  const struct args* args = session->args;
  const struct runtime_options options = {.threads = args->threads, .profile = args->profile, .seed = args->seed};
  crash_means(EXIT_LIBRARY,
              "the library crashed when loaded: give --lib the libLiteRt.so of LiteRT 2.3 for this machine");
  if (runtime_load(&session->runtime, session->library, error)) return -1;
  crash_means(EXIT_MODEL, "bad model: LiteRT crashed on it before its first result: copy or convert it again");
  crash_after(deadline_secs(args));
  uint64_t start_ns = bench_now_ns();
  int result = runtime_open(&session->runtime, args->model, &options, error);
  session->init_ns = bench_now_ns() - start_ns;
  return result;
}

/* A model that has never run is to blame for its first failure; later ones are the device's. */
static int first_run(struct session* session, struct error* error) {
  const struct limits once = {.runs = 1, .max_secs = session->args->max_secs};
  struct timings first = {0};
  if (bench_run(&session->runtime, &once, &first, NULL, error)) {
    if (error->code == EXIT_RUN) error->code = EXIT_MODEL;
    return -1;
  }
  session->first_ns = first.samples_ns[0];
  free(first.samples_ns);
  return 0;
}

static int warm_up(struct session* session, struct error* error) {
  const struct args* args = session->args;
  const struct limits limits = {.runs = args->warmup_runs, .min_secs = args->warmup_secs, .max_secs = args->max_secs};
  if (first_run(session, error)) return -1;
  crash_after(deadline_secs(args));
  crash_means(EXIT_RUN, "a run crashed after others had succeeded: check the device's memory and try again");
  if (bench_run(&session->runtime, &limits, &session->warmup, NULL, error)) return -1;
  session->threads_got = device_thread_count();
  if (session->threads_got < args->threads) {
    say("warning", "%d threads were asked for and %d exist", args->threads, session->threads_got);
  }
  return 0;
}

static int start_profiler(struct runtime* runtime, struct error* error) {
  litert_status status = runtime->call.start_profiler(runtime->profiler);
  return status ? fail(error, EXIT_RUN, "the profiler does not start (status %d): leave out --profile", status) : 0;
}

static int measure(struct session* session, struct json* json, struct error* error) {
  const struct args* args = session->args;
  const struct limits limits = {.runs = args->runs, .min_secs = args->min_secs, .max_secs = args->max_secs};
  if (args->profile && start_profiler(&session->runtime, error)) return -1;
  report_begin(session, json);
  crash_after(deadline_secs(args));
  long switches = device_involuntary_switches();
  if (bench_run(&session->runtime, &limits, &session->timed, args->profile ? &session->profile : NULL, error))
    return -1;
  session->involuntary_switches = device_involuntary_switches() - switches;
  if (session->timed.cut_short) say("warning", "--max-secs came first, after %zu runs", session->timed.count);
  return report_finish(session, json, error);
}

/* The file first: it is whole even where the reader of stdout has gone. */
static int publish(const struct session* session, const struct json* json, struct error* error) {
  const char* out = session->args->out;
  if (out && outfile_write(out, json->text, json->length, error)) return -1;
  if (outfile_stdout(json->text, json->length, error)) return -1;
  return outfile_stdout("\n", 1, error);
}

static int bench(const struct args* args, struct error* error) {
  static struct session session; /* too large for a small stack, and gone only with the process */
  struct json json = {0};
  session.args = args;
  session.library = args->lib ? args->lib : library_beside_program();
  if (prepare(&session, error) || load(&session, error) || warm_up(&session, error)) return -1;
  return measure(&session, &json, error) || publish(&session, &json, error) ? -1 : 0;
}

int main(int count, char** words) {
  struct args args;
  struct error error;
  int result = args_parse(count, words, &args, &error);
  signal(SIGPIPE, SIG_IGN);
  if (!result && args.help) {
    result = outfile_stdout(args_help, strlen(args_help), &error);
  } else if (!result && args.version) {
    static const char version[] = "android_bench " ANDROID_BENCH_VERSION "\n";
    result = outfile_stdout(version, strlen(version), &error);
  } else if (!result) {
    result = bench(&args, &error);
  }
  if (result) say("error", "%s", error.text);
  fflush(stderr);
  _exit(result ? (int)error.code : EXIT_DONE); /* the runtime's own ending must not spoil a good result */
}
