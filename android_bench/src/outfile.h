/* Writes a result so that a reader sees all of it or none. */
#ifndef ANDROID_BENCH_OUTFILE_H
#define ANDROID_BENCH_OUTFILE_H

#include <stddef.h>

#include "error.h"

/* Refuses, before any time is spent, a path whose folder cannot be written. Returns 0, or -1 with EXIT_WRITE. */
int outfile_check(const char* path, struct error* error);

/* Writes beside path, syncs, renames, syncs the folder; leaves nothing behind on failure. Returns 0, or -1 with
 * EXIT_WRITE. */
int outfile_write(const char* path, const char* text, size_t length, struct error* error);

/* Writes all of text to stdout. Returns 0, or -1 with EXIT_WRITE. */
int outfile_stdout(const char* text, size_t length, struct error* error);

#endif
