/* The result as JSON, schema 1: README.md says what each field means. */
#ifndef ANDROID_BENCH_REPORT_H
#define ANDROID_BENCH_REPORT_H

#include "args.h"
#include "bench.h"
#include "device.h"

#define ANDROID_BENCH_VERSION "1.0.0"

struct session {
  const struct args* args;
  const char* library;
  struct runtime runtime;
  int64_t model_bytes;
  uint64_t init_ns, first_ns;
  struct timings warmup, timed;
  struct profile profile;
  int threads_got;
  long involuntary_switches;
};

/* Opens the result with all that is known before the timed runs, clocks and temperatures read last. */
void report_begin(const struct session* session, struct json* json);

/* Reads clocks and temperatures again and completes the result. Returns 0, or -1 with EXIT_MEMORY. */
int report_finish(const struct session* session, struct json* json, struct error* error);

#endif
