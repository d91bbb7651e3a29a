/* Summary of an array of durations; pure. */
#ifndef ANDROID_BENCH_STATS_H
#define ANDROID_BENCH_STATS_H

#include <stddef.h>
#include <stdint.h>

struct stats {
  double avg, min, max, stddev, median, p5, p90, p95; /* in the unit of the samples; stddev is the population's */
};

/* Summarises count >= 1 samples in samples' own unit; leaves samples as they are. Returns 0, or -1 without memory. */
int stats_of(const uint64_t* samples, size_t count, struct stats* stats);

/* The percentile (0 to 100) of ascending samples, linear between neighbours as numpy does by default. */
double stats_percentile(const uint64_t* ascending, size_t count, double percent);

#endif
