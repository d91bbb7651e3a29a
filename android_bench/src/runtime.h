/* A model ready to run in LiteRT on the CPU. */
#ifndef ANDROID_BENCH_RUNTIME_H
#define ANDROID_BENCH_RUNTIME_H

#include <stdbool.h>

#include "error.h"
#include "litert.h"

struct tensor {
  const char* name; /* owned by the runtime */
  struct litert_tensor_type type;
};

struct runtime {
  struct litert call;
  litert_handle environment, model, options, compiled, profiler;
  size_t input_count, output_count;
  litert_handle *input_buffers, *output_buffers;
  struct tensor *inputs, *outputs;
  bool fully_accelerated;
  char cpu_options[64]; /* LiteRT keeps pointers to the option texts */
};

struct runtime_options {
  int threads;
  bool profile;
  uint64_t seed;
};

/* Loads the library. Returns 0, or -1 with EXIT_LIBRARY. */
int runtime_load(struct runtime* runtime, const char* library, struct error* error);

/* Reads and compiles the model, makes its buffers and fills its inputs. Returns 0, or -1 (EXIT_MODEL, EXIT_MEMORY). */
int runtime_open(struct runtime* runtime, const char* model, const struct runtime_options* options,
                 struct error* error);

/* One inference of signature 0. Returns LiteRT's status, 0 where all is well. */
litert_status runtime_invoke(struct runtime* runtime);

/* LiteRT's name for the type of an element, such as "float32". */
const char* runtime_type_name(int element);

#endif
