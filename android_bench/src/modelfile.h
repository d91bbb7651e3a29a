/* A first look at a model file, before the runtime sees it. */
#ifndef ANDROID_BENCH_MODELFILE_H
#define ANDROID_BENCH_MODELFILE_H

#include <stdint.h>

#include "error.h"

/* Holds that path is a readable file with a .tflite's identifier and a root table inside the file; sets its size.
 * Returns 0, or -1 with EXIT_MODEL. */
int modelfile_check(const char* path, int64_t* bytes, struct error* error);

#endif
