/* The part of LiteRT's C interface that this program uses, declared here so that nothing of LiteRT is needed to build.
 * Facts and names follow litert/c of LiteRT 2.2 and 2.3 (Apache-2.0); a library without one of these is refused. */
#ifndef ANDROID_BENCH_LITERT_H
#define ANDROID_BENCH_LITERT_H

#include <stddef.h>
#include <stdint.h>

enum {
  LITERT_OK = 0,
  LITERT_CPU = 1,
  LITERT_LOCK_WRITE = 1,
  LITERT_MAX_RANK = 8,
  LITERT_FLOAT32 = 1,
  LITERT_STRING = 5
};

enum litert_event_type {
  EVENT_DEFAULT = 1,           /* a span such as "Invoke" */
  EVENT_NODE = 2,              /* a node of the model's graph; where a delegate took nodes, one node stands for them */
  EVENT_DELEGATE = 4,          /* an operation inside a delegate */
  EVENT_DELEGATE_PROFILED = 8, /* the same; this is what XNNPACK sends */
}; /* greater ones are telemetry, whose "time" is no time */

typedef int litert_status;
typedef void* litert_handle;

struct litert_tensor_type {
  int element;
  unsigned rank : 7;
  unsigned has_strides : 1;
  int32_t dims[LITERT_MAX_RANK];
  uint32_t strides[LITERT_MAX_RANK];
};

struct litert_event {
  const char* tag;
  int type;
  uint64_t start_us, elapsed_us;
  size_t memory_before[3], memory_after[3];
  uint64_t node, subgraph;
  int source;
};

_Static_assert(sizeof(struct litert_tensor_type) == 72, "size of LiteRtRankedTensorType");
_Static_assert(sizeof(void*) != 8 || sizeof(struct litert_event) == 104, "size of ProfiledEventData");

/* X(member, symbol, arguments): every function that is looked up in the library. */
#define LITERT_FUNCTIONS(X)                                                                                          \
  X(create_environment, "LiteRtCreateEnvironment", (int, const void*, litert_handle*))                               \
  X(create_model, "LiteRtCreateModelFromFile", (litert_handle, const char*, litert_handle*))                         \
  X(create_options, "LiteRtCreateOptions", (litert_handle*))                                                         \
  X(set_accelerators, "LiteRtSetOptionsHardwareAccelerators", (litert_handle, int))                                  \
  X(create_opaque, "LiteRtCreateOpaqueOptions", (const char*, void*, void (*)(void*), litert_handle*))               \
  X(add_opaque, "LiteRtAddOpaqueOptions", (litert_handle, litert_handle))                                            \
  X(compile, "LiteRtCreateCompiledModel", (litert_handle, litert_handle, litert_handle, litert_handle*))             \
  X(fully_accelerated, "LiteRtCompiledModelIsFullyAccelerated", (litert_handle, unsigned char*))                     \
  X(signature, "LiteRtGetModelSignature", (litert_handle, size_t, litert_handle*))                                   \
  X(input_count, "LiteRtGetNumSignatureInputs", (litert_handle, size_t*))                                            \
  X(output_count, "LiteRtGetNumSignatureOutputs", (litert_handle, size_t*))                                          \
  X(input_name, "LiteRtGetSignatureInputName", (litert_handle, size_t, const char**))                                \
  X(output_name, "LiteRtGetSignatureOutputName", (litert_handle, size_t, const char**))                              \
  X(input_tensor, "LiteRtGetSignatureInputTensorByIndex", (litert_handle, size_t, litert_handle*))                   \
  X(output_tensor, "LiteRtGetSignatureOutputTensorByIndex", (litert_handle, size_t, litert_handle*))                 \
  X(tensor_type, "LiteRtGetRankedTensorType", (litert_handle, struct litert_tensor_type*))                           \
  X(input_needs, "LiteRtGetCompiledModelInputBufferRequirements", (litert_handle, size_t, size_t, litert_handle*))   \
  X(output_needs, "LiteRtGetCompiledModelOutputBufferRequirements", (litert_handle, size_t, size_t, litert_handle*)) \
  X(create_buffer, "LiteRtCreateManagedTensorBufferFromRequirements",                                                \
    (litert_handle, const struct litert_tensor_type*, litert_handle, litert_handle*))                                \
  X(buffer_size, "LiteRtGetTensorBufferSize", (litert_handle, size_t*))                                              \
  X(lock, "LiteRtLockTensorBuffer", (litert_handle, void**, int))                                                    \
  X(unlock, "LiteRtUnlockTensorBuffer", (litert_handle))                                                             \
  X(run, "LiteRtRunCompiledModel", (litert_handle, size_t, size_t, litert_handle*, size_t, litert_handle*))          \
  X(profiler, "LiteRtCompiledModelGetProfiler", (litert_handle, litert_handle*))                                     \
  X(start_profiler, "LiteRtStartProfiler", (litert_handle))                                                          \
  X(event_count, "LiteRtGetNumProfilerEvents", (litert_handle, int*))                                                \
  X(events, "LiteRtGetProfilerEvents", (litert_handle, int, struct litert_event*))

struct litert {
#define LITERT_MEMBER(member, symbol, arguments) litert_status(*member) arguments;
  LITERT_FUNCTIONS(LITERT_MEMBER)
#undef LITERT_MEMBER
};

#endif
