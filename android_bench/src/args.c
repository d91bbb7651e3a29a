#include "args.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char args_help[] =
    "usage: android_bench --model FILE [flags]\n"
    "Times a .tflite model with LiteRT on the CPU. One JSON object goes to stdout and to --out, words to stderr.\n"
    "\n"
    "  --model FILE       the .tflite to time\n"
    "  --lib FILE         LiteRT's C library (default: libLiteRt.so beside this program)\n"
    "  --lib-version TEXT recorded as runtime.version, as given\n"
    "  --threads N        threads that compute (default 1)\n"
    "  --runs N           time at least N runs (default 50)\n"
    "  --min-secs S       and at least for S seconds (default 1)\n"
    "  --max-secs S       start no run that would end after S seconds (default 60); this wins over the other two\n"
    "                     (a step that takes more than 2 S + 30 seconds ends the program with code 7)\n"
    "  --warmup-runs N    warm up for at least N runs (default 10)\n"
    "  --warmup-secs S    and at least for S seconds (default 0.5)\n"
    "  --cpu-mask HEX     pin to these CPUs: f0 is CPUs 4 to 7 (default: leave it to the kernel)\n"
    "  --profile          also time each operation; slows the runs, so the result is marked \"profiled\": true\n"
    "  --seed N           seed of the float inputs, uniform in [0, 1) (default 0); other types get zeros\n"
    "  --out FILE         also write the result to FILE (written aside, synced, renamed)\n"
    "  --sysfs DIR        where clocks and temperatures are read (default /sys)\n"
    "  --help, --version\n"
    "\n"
    "exit codes:\n"
    "  0  done\n"
    "  2  bad argument\n"
    "  3  the library is missing or unfit\n"
    "  4  bad model: absent, empty, truncated, not a .tflite, not supported, or it crashes LiteRT\n"
    "  5  the CPU mask or the number of threads was refused\n"
    "  6  the result cannot be written\n"
    "  7  a run failed\n"
    "  8  not enough memory\n";

enum kind { TEXT, COUNT, SECONDS, MASK, SEED, SWITCH };

struct flag {
  const char* name;
  enum kind kind;
  void* slot;
  double low, high;
};

static int parse_count(const struct flag* flag, const char* value, struct error* error) {
  char* end;
  errno = 0;
  long number = strtol(value, &end, 10);
  if (!*value || *end || errno || number < (long)flag->low || number > (long)flag->high) {
    return fail(error, EXIT_ARGUMENT, "%s is '%s': give a whole number from %.0f to %.0f", flag->name, value, flag->low,
                flag->high);
  }
  *(long*)flag->slot = number;
  return 0;
}

static int parse_seconds(const struct flag* flag, const char* value, struct error* error) {
  char* end;
  double number = strtod(value, &end);
  if (!*value || *end || !isfinite(number) || number < flag->low || number > flag->high) {
    return fail(error, EXIT_ARGUMENT, "%s is '%s': give seconds from %g to %g", flag->name, value, flag->low,
                flag->high);
  }
  *(double*)flag->slot = number;
  return 0;
}

static int parse_seed(const struct flag* flag, const char* value, struct error* error) {
  char* end;
  errno = 0;
  unsigned long long number = strtoull(value, &end, 10);
  if (!isdigit((unsigned char)*value) || *end || errno || number > INT64_MAX) {
    return fail(error, EXIT_ARGUMENT, "%s is '%s': give a whole number from 0 to 2^63 - 1", flag->name, value);
  }
  *(uint64_t*)flag->slot = number;
  return 0;
}

static int parse_mask(const struct flag* flag, const char* value, struct error* error) {
  const char* digits = value[0] == '0' && (value[1] == 'x' || value[1] == 'X') ? value + 2 : value;
  size_t length = strlen(digits);
  if (!length || length > 256 || strspn(digits, "0123456789abcdefABCDEF") != length || strspn(digits, "0") == length) {
    return fail(error, EXIT_ARGUMENT, "%s is '%s': give a hexadecimal mask with at least one CPU, such as f0",
                flag->name, value);
  }
  *(const char**)flag->slot = digits;
  return 0;
}

static int parse_text(const struct flag* flag, const char* value, struct error* error) {
  if (!*value) return fail(error, EXIT_ARGUMENT, "%s is empty: give it a value", flag->name);
  *(const char**)flag->slot = value;
  return 0;
}

static int parse_value(const struct flag* flag, const char* value, struct error* error) {
  switch (flag->kind) {
    case COUNT: return parse_count(flag, value, error);
    case SECONDS: return parse_seconds(flag, value, error);
    case MASK: return parse_mask(flag, value, error);
    case SEED: return parse_seed(flag, value, error);
    case TEXT:
    case SWITCH: break;
  }
  return parse_text(flag, value, error);
}

/* The flag that word names, with or without "=value"; NULL when there is none. */
static const struct flag* find_flag(const struct flag* flags, const char* word) {
  size_t length = strcspn(word, "=");
  for (; flags->name; flags++) {
    if (strlen(flags->name) == length && !strncmp(flags->name, word, length)) return flags;
  }
  return NULL;
}

static int check(const struct args* args, struct error* error) {
  if (args->help || args->version) return 0;
  if (!args->model) return fail(error, EXIT_ARGUMENT, "--model is missing: name the .tflite file to time");
  if (args->max_secs < args->min_secs) {
    return fail(error, EXIT_ARGUMENT, "--max-secs %g is below --min-secs %g: raise one or lower the other",
                args->max_secs, args->min_secs);
  }
  return 0;
}

int args_parse(int count, char** words, struct args* args, struct error* error) {
  long threads = 1;
  *args = (struct args){
      .sysfs = "/sys", .runs = 50, .warmup_runs = 10, .warmup_secs = 0.5, .min_secs = 1.0, .max_secs = 60.0};
  const struct flag flags[] = {
      {"--model", TEXT, &args->model, 0, 0},
      {"--lib", TEXT, &args->lib, 0, 0},
      {"--lib-version", TEXT, &args->lib_version, 0, 0},
      {"--out", TEXT, &args->out, 0, 0},
      {"--sysfs", TEXT, &args->sysfs, 0, 0},
      {"--cpu-mask", MASK, &args->cpu_mask, 0, 0},
      {"--threads", COUNT, &threads, 1, 1024},
      {"--runs", COUNT, &args->runs, 1, 10e6},
      {"--warmup-runs", COUNT, &args->warmup_runs, 0, 10e6},
      {"--warmup-secs", SECONDS, &args->warmup_secs, 0, 86400},
      {"--min-secs", SECONDS, &args->min_secs, 0, 86400},
      {"--max-secs", SECONDS, &args->max_secs, 0.001, 86400},
      {"--seed", SEED, &args->seed, 0, 0},
      {"--profile", SWITCH, &args->profile, 0, 0},
      {"--help", SWITCH, &args->help, 0, 0},
      {"--version", SWITCH, &args->version, 0, 0},
      {NULL, TEXT, NULL, 0, 0},
  };
  for (int i = 1; i < count; i++) {
    const struct flag* flag = find_flag(flags, words[i]);
    const char* equals = strchr(words[i], '=');
    if (!flag) return fail(error, EXIT_ARGUMENT, "'%s' is not a flag of this program: see --help", words[i]);
    if (flag->kind == SWITCH) {
      if (equals) return fail(error, EXIT_ARGUMENT, "%s takes no value: leave out '%s'", flag->name, equals);
      *(bool*)flag->slot = true;
      continue;
    }
    if (!equals && i + 1 == count) return fail(error, EXIT_ARGUMENT, "%s needs a value: see --help", flag->name);
    if (parse_value(flag, equals ? equals + 1 : words[++i], error)) return -1;
  }
  args->threads = (int)threads;
  return check(args, error);
}
