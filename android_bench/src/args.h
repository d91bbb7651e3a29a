/* The command line. */
#ifndef ANDROID_BENCH_ARGS_H
#define ANDROID_BENCH_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

struct args {
  const char* model;
  const char* lib;         /* NULL: libLiteRt.so in the program's own folder */
  const char* lib_version; /* recorded as given: the library cannot be asked */
  const char* out;         /* NULL: stdout only */
  const char* cpu_mask;    /* hexadecimal digits without 0x; NULL: leave the affinity alone */
  const char* sysfs;
  int threads;
  long runs;
  long warmup_runs;
  double warmup_secs;
  double min_secs;
  double max_secs;
  uint64_t seed;
  bool profile;
  bool help;
  bool version;
};

/* Fills args from defaults and the command line (`--flag value` or `--flag=value`). Returns 0, or -1 with
 * EXIT_ARGUMENT. */
int args_parse(int count, char** words, struct args* args, struct error* error);

/* What --help prints. */
extern const char args_help[];

#endif
