/* Turns LiteRT's profiler events into times of operations, in execution order. */
#ifndef ANDROID_BENCH_PROFILE_H
#define ANDROID_BENCH_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "json.h"
#include "litert.h"

/* One operation or span: all firings that share everything down to `subgraph`. */
struct profile_entry {
  char* tag;
  int type;
  int64_t node;
  int64_t partition; /* of an operation in a delegate: which of the delegate's pieces of the graph; else -1 */
  int64_t parent;    /* of a node inside a node (a body of a loop): the outer one; else -1 */
  int64_t subgraph;
  bool has_children;
  uint64_t count, total_us;
  uint64_t* run_us; /* time in each run, all firings together */
};

struct profile {
  struct profile_entry* entries;
  size_t count, room;
  size_t runs, run_room; /* runs added so far; room of every run_us and of invoke_us */
  uint64_t* invoke_us;
};

/* Adds all events of one run, in the order in which LiteRT gives them; start from a zeroed profile. Returns 0, or -1
 * without memory. */
int profile_add_run(struct profile* profile, const struct litert_event* events, size_t count);

/* Adds `"profile": {...}` as the README describes it; null where profile is NULL. */
void profile_put(struct json* json, const struct profile* profile);

#endif
