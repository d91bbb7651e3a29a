#include "error.h"

#include <stdarg.h>
#include <stdio.h>

int fail(struct error* error, enum exit_code code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  error->code = code;
  vsnprintf(error->text, sizeof error->text, format, arguments);
  va_end(arguments);
  return -1;
}

int fail_memory(struct error* error) {
  return fail(error, EXIT_MEMORY, "not enough memory: free some, or use a smaller model or fewer runs");
}

void say(const char* kind, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "android_bench: %s: ", kind);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
}
