/* How this program fails: a function returns -1 after fail() has noted the exit code and the sentence; main decides. */
#ifndef ANDROID_BENCH_ERROR_H
#define ANDROID_BENCH_ERROR_H

enum exit_code {
  EXIT_DONE = 0,
  EXIT_ARGUMENT = 2,
  EXIT_LIBRARY = 3,
  EXIT_MODEL = 4,
  EXIT_CPU = 5,
  EXIT_WRITE = 6,
  EXIT_RUN = 7,
  EXIT_MEMORY = 8,
};

struct error {
  enum exit_code code;
  char text[768];
};

/* Notes what went wrong and what to do about it, in one sentence; always returns -1. */
int fail(struct error* error, enum exit_code code, const char* format, ...) __attribute__((format(printf, 3, 4)));

/* Notes that memory ran out; always returns -1. */
int fail_memory(struct error* error);

/* Writes one line for people to stderr: "android_bench: KIND: TEXT". */
void say(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

#endif
