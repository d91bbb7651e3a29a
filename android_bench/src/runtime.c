#include "runtime.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int find_symbol(void* library, const char* path, const char* symbol, void* slot, struct error* error) {
  void* found = dlsym(library, symbol);
  if (!found) {
    return fail(error, EXIT_LIBRARY, "library '%s' lacks %s: use libLiteRt.so of LiteRT 2.3", path, symbol);
  }
  memcpy(slot, &found, sizeof found); /* ISO C has no cast from an object's address to a function's */
  return 0;
}

int runtime_load(struct runtime* runtime, const char* path, struct error* error) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    return fail(error, EXIT_LIBRARY,
                "library cannot be loaded (%s): give --lib the libLiteRt.so of LiteRT 2.3 for this machine", dlerror());
  }
#define LITERT_FIND(member, symbol, arguments) \
  if (find_symbol(library, path, symbol, &runtime->call.member, error)) return -1;
  LITERT_FUNCTIONS(LITERT_FIND)
#undef LITERT_FIND
  return 0;
}

static void keep(void* payload) {
  (void)payload;
}

/* CPU and runtime options travel as small TOML texts under ids of their own. */
static litert_status add_text_option(struct runtime* runtime, const char* id, char* text) {
  litert_handle opaque;
  litert_status status = runtime->call.create_opaque(id, text, keep, &opaque);
  return status ? status : runtime->call.add_opaque(runtime->options, opaque);
}

static litert_status make_options(struct runtime* runtime, const struct runtime_options* options) {
  static char profiling[] = "enable_profiling = true\n";
  snprintf(runtime->cpu_options, sizeof runtime->cpu_options, "num_threads = %d\n", options->threads);
  litert_status status = runtime->call.create_options(&runtime->options);
  if (!status) status = runtime->call.set_accelerators(runtime->options, LITERT_CPU);
  if (!status) status = add_text_option(runtime, "xnnpack", runtime->cpu_options);
  if (!status && options->profile) status = add_text_option(runtime, "runtime_options_string", profiling);
  return status;
}

static int reject(struct error* error, const char* model, const char* step, litert_status status) {
  return fail(
      error, EXIT_MODEL,
      "model '%s' was rejected by LiteRT (%s: status %d): copy or convert it again, with operations of LiteRT 2.3",
      model, step, status);
}

static int compile(struct runtime* runtime, const char* model, const struct runtime_options* options,
                   struct error* error) {
  unsigned char full = 0;
  litert_status status = runtime->call.create_environment(0, NULL, &runtime->environment);
  if (status)
    return fail(error, EXIT_LIBRARY, "LiteRT does not start (status %d): use libLiteRt.so of LiteRT 2.3", status);
  if ((status = make_options(runtime, options))) {
    return fail(error, EXIT_LIBRARY, "LiteRT refuses our options (status %d): use libLiteRt.so of LiteRT 2.3", status);
  }
  if ((status = runtime->call.create_model(runtime->environment, model, &runtime->model))) {
    return reject(error, model, "reading", status);
  }
  if ((status = runtime->call.compile(runtime->environment, runtime->model, runtime->options, &runtime->compiled))) {
    return reject(error, model, "compiling", status);
  }
  if ((status = runtime->call.fully_accelerated(runtime->compiled, &full)))
    return reject(error, model, "delegating", status);
  runtime->fully_accelerated = full != 0;
  return 0;
}

static int make_buffer(struct runtime* runtime, litert_handle tensor, litert_handle needs, struct tensor* about,
                       litert_handle* buffer, const char* model, struct error* error) {
  litert_status status = runtime->call.tensor_type(tensor, &about->type);
  if (status) return reject(error, model, "type of a tensor", status);
  for (unsigned i = 0; i < about->type.rank; i++) {
    if (about->type.dims[i] < 0) {
      return fail(error, EXIT_MODEL, "model '%s' has no fixed shape for '%s': export it with fixed shapes", model,
                  about->name);
    }
  }
  if (about->type.element == LITERT_STRING) {
    return fail(error, EXIT_MODEL, "model '%s' has text in '%s', which is not supported: use a model of numbers", model,
                about->name);
  }
  status = runtime->call.create_buffer(runtime->environment, &about->type, needs, buffer);
  return status ? reject(error, model, "buffer of a tensor", status) : 0;
}

static int make_input(struct runtime* runtime, litert_handle signature, size_t index, const char* model,
                      struct error* error) {
  litert_handle tensor, needs;
  litert_status status = runtime->call.input_tensor(signature, index, &tensor);
  if (!status) status = runtime->call.input_name(signature, index, &runtime->inputs[index].name);
  if (!status) status = runtime->call.input_needs(runtime->compiled, 0, index, &needs);
  if (status) return reject(error, model, "an input", status);
  return make_buffer(runtime, tensor, needs, &runtime->inputs[index], &runtime->input_buffers[index], model, error);
}

static int make_output(struct runtime* runtime, litert_handle signature, size_t index, const char* model,
                       struct error* error) {
  litert_handle tensor, needs;
  litert_status status = runtime->call.output_tensor(signature, index, &tensor);
  if (!status) status = runtime->call.output_name(signature, index, &runtime->outputs[index].name);
  if (!status) status = runtime->call.output_needs(runtime->compiled, 0, index, &needs);
  if (status) return reject(error, model, "an output", status);
  return make_buffer(runtime, tensor, needs, &runtime->outputs[index], &runtime->output_buffers[index], model, error);
}

static int make_buffers(struct runtime* runtime, const char* model, struct error* error) {
  litert_handle signature;
  litert_status status = runtime->call.signature(runtime->model, 0, &signature);
  if (!status) status = runtime->call.input_count(signature, &runtime->input_count);
  if (!status) status = runtime->call.output_count(signature, &runtime->output_count);
  if (status) return reject(error, model, "its signature", status);
  runtime->inputs = calloc(runtime->input_count + 1, sizeof *runtime->inputs);
  runtime->outputs = calloc(runtime->output_count + 1, sizeof *runtime->outputs);
  runtime->input_buffers = calloc(runtime->input_count + 1, sizeof *runtime->input_buffers);
  runtime->output_buffers = calloc(runtime->output_count + 1, sizeof *runtime->output_buffers);
  if (!runtime->inputs || !runtime->outputs || !runtime->input_buffers || !runtime->output_buffers)
    return fail_memory(error);
  for (size_t i = 0; i < runtime->input_count; i++) {
    if (make_input(runtime, signature, i, model, error)) return -1;
  }
  for (size_t i = 0; i < runtime->output_count; i++) {
    if (make_output(runtime, signature, i, model, error)) return -1;
  }
  return 0;
}

/* splitmix64: one state, no dependence on libc, the same numbers on every machine. */
static uint64_t next_random(uint64_t* state) {
  uint64_t z = (*state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static void fill(void* memory, size_t bytes, int element, uint64_t* state) {
  memset(memory, 0, bytes);
  if (element != LITERT_FLOAT32) return;
  float* values = memory;
  for (size_t i = 0; i < bytes / sizeof *values; i++) values[i] = (float)(next_random(state) >> 40) * 0x1p-24f;
}

static int fill_inputs(struct runtime* runtime, const char* model, uint64_t seed, struct error* error) {
  for (size_t i = 0; i < runtime->input_count; i++) {
    size_t bytes;
    void* memory;
    litert_status status = runtime->call.buffer_size(runtime->input_buffers[i], &bytes);
    if (!status) status = runtime->call.lock(runtime->input_buffers[i], &memory, LITERT_LOCK_WRITE);
    if (status) return reject(error, model, "filling an input", status);
    fill(memory, bytes, runtime->inputs[i].type.element, &seed);
    if ((status = runtime->call.unlock(runtime->input_buffers[i])))
      return reject(error, model, "filling an input", status);
  }
  return 0;
}

int runtime_open(struct runtime* runtime, const char* model, const struct runtime_options* options,
                 struct error* error) {
  if (compile(runtime, model, options, error) || make_buffers(runtime, model, error)) return -1;
  if (fill_inputs(runtime, model, options->seed, error)) return -1;
  if (!options->profile) return 0;
  litert_status status = runtime->call.profiler(runtime->compiled, &runtime->profiler);
  if (!status && runtime->profiler) return 0;
  return fail(error, EXIT_LIBRARY, "LiteRT gives no profiler (status %d): leave out --profile, or use LiteRT 2.3",
              status);
}

litert_status runtime_invoke(struct runtime* runtime) {
  return runtime->call.run(runtime->compiled, 0, runtime->input_count, runtime->input_buffers, runtime->output_count,
                           runtime->output_buffers);
}

const char* runtime_type_name(int element) {
  static const char* const names[] = {"none",     "float32",   "int32",  "uint8",   "int64",   "string",     "bool",
                                      "int16",    "complex64", "int8",   "float16", "float64", "complex128", "uint64",
                                      "resource", "variant",   "uint32", "uint16",  "int4",    "bfloat16"};
  size_t count = sizeof names / sizeof *names;
  return element >= 0 && (size_t)element < count ? names[element] : "other";
}
