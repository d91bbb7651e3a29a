#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int ascending_order(const void* left, const void* right) {
  uint64_t a = *(const uint64_t*)left, b = *(const uint64_t*)right;
  return (a > b) - (a < b);
}

double stats_percentile(const uint64_t* ascending, size_t count, double percent) {
  double place = percent / 100.0 * (double)(count - 1);
  size_t below = (size_t)place;
  size_t above = below + 1 < count ? below + 1 : below;
  double low = (double)ascending[below];
  return low + ((double)ascending[above] - low) * (place - (double)below);
}

static double average(const uint64_t* samples, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (double)samples[i];
  return sum / (double)count;
}

static double deviation(const uint64_t* samples, size_t count, double avg) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += ((double)samples[i] - avg) * ((double)samples[i] - avg);
  return sqrt(sum / (double)count);
}

int stats_of(const uint64_t* samples, size_t count, struct stats* stats) {
  uint64_t* sorted = malloc(count * sizeof *sorted);
  if (!sorted) return -1;
  memcpy(sorted, samples, count * sizeof *sorted);
  qsort(sorted, count, sizeof *sorted, ascending_order);
  stats->avg = average(samples, count);
  stats->min = (double)sorted[0];
  stats->max = (double)sorted[count - 1];
  stats->stddev = deviation(samples, count, stats->avg);
  stats->median = stats_percentile(sorted, count, 50);
  stats->p5 = stats_percentile(sorted, count, 5);
  stats->p90 = stats_percentile(sorted, count, 90);
  stats->p95 = stats_percentile(sorted, count, 95);
  free(sorted);
  return 0;
}
