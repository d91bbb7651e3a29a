/* A damaged model can pass every check and still crash the runtime or keep it busy for ever; that, too, has to end in
 * an exit code and a sentence. */
#ifndef ANDROID_BENCH_CRASH_H
#define ANDROID_BENCH_CRASH_H

#include "error.h"

/* From now on a crash ends the process with code, after writing "android_bench: error: SENTENCE" to stderr. The
 * sentence has to outlive the process. */
void crash_means(enum exit_code code, const char* sentence);

/* From now on the process has this many seconds until it is ended with EXIT_RUN; replaces an earlier deadline. */
void crash_after(double seconds);

#endif
