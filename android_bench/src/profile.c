#include "profile.h"

#include <stdlib.h>
#include <string.h>

#include "stats.h"

enum { DEEPEST = 16 };

/* Where in a run the current event lies. */
struct cursor {
  struct {
    size_t entry;
    uint64_t end_us;
  } outer[DEEPEST]; /* the nodes that enclose it, outermost first */
  size_t depth;
  size_t place; /* entry of the last event */
  int64_t partition, last_node;
  bool in_partition, invoked;
};

static int grow_array(uint64_t** array, size_t old_room, size_t room) {
  uint64_t* grown = realloc(*array, room * sizeof *grown);
  if (!grown) return -1;
  memset(grown + old_room, 0, (room - old_room) * sizeof *grown);
  *array = grown;
  return 0;
}

static int make_room_for_run(struct profile* profile) {
  if (profile->runs < profile->run_room) return 0;
  size_t room = profile->run_room ? 2 * profile->run_room : 64;
  if (grow_array(&profile->invoke_us, profile->run_room, room)) return -1;
  for (size_t i = 0; i < profile->count; i++) {
    if (grow_array(&profile->entries[i].run_us, profile->run_room, room)) return -1;
  }
  profile->run_room = room;
  return 0;
}

static bool is_same(const struct profile_entry* entry, const struct profile_entry* wanted) {
  return entry->node == wanted->node && entry->partition == wanted->partition && entry->parent == wanted->parent &&
         entry->type == wanted->type && entry->subgraph == wanted->subgraph && !strcmp(entry->tag, wanted->tag);
}

static int append(struct profile* profile, const struct profile_entry* wanted) {
  if (profile->count == profile->room) {
    size_t room = profile->room ? 2 * profile->room : 256;
    struct profile_entry* entries = realloc(profile->entries, room * sizeof *entries);
    if (!entries) return -1;
    profile->entries = entries;
    profile->room = room;
  }
  struct profile_entry* entry = &profile->entries[profile->count];
  *entry = *wanted;
  entry->tag = strdup(wanted->tag); /* LiteRT's copy goes when its events are cleared */
  entry->run_us = calloc(profile->run_room, sizeof *entry->run_us);
  if (!entry->tag || !entry->run_us) return -1;
  profile->count++;
  return 0;
}

/* Every run fires the same events in the same order, so the search starts behind the last find. */
static struct profile_entry* find_or_append(struct profile* profile, const struct profile_entry* wanted,
                                            size_t* place) {
  for (size_t step = 1; step <= profile->count; step++) {
    size_t candidate = (*place + step) % profile->count;
    if (is_same(&profile->entries[candidate], wanted)) {
      *place = candidate;
      return &profile->entries[candidate];
    }
  }
  if (append(profile, wanted)) return NULL;
  *place = profile->count - 1;
  return &profile->entries[*place];
}

/* Leaves the nodes that had ended when this event began. A node inside another one begins before the outer one ends. */
static void leave_finished(struct cursor* cursor, uint64_t start_us) {
  while (cursor->depth && cursor->outer[cursor->depth - 1].end_us <= start_us) cursor->depth--;
}

/* The node right around the current event; marked, so that its time is not counted beside its parts'. */
static int64_t enclosing_node(struct profile* profile, const struct cursor* cursor) {
  if (!cursor->depth) return -1;
  struct profile_entry* outer = &profile->entries[cursor->outer[cursor->depth - 1].entry];
  outer->has_children = true;
  return outer->node;
}

/* XNNPACK reports a partition when it has run, in one go, numbering its operations from 0 and giving them no time of
 * day; nothing else says where one partition ends and the next begins. */
static int64_t partition_of(struct cursor* cursor, int64_t node) {
  if (!cursor->in_partition || node <= cursor->last_node) cursor->partition++;
  cursor->in_partition = true;
  cursor->last_node = node;
  return cursor->partition;
}

static int add_operation(struct profile* profile, const struct litert_event* event, struct cursor* cursor) {
  struct profile_entry wanted = {.tag = (char*)event->tag,
                                 .type = event->type,
                                 .node = (int64_t)event->node,
                                 .partition = -1,
                                 .parent = -1,
                                 .subgraph = (int64_t)event->subgraph};
  if (event->type == EVENT_NODE) {
    leave_finished(cursor, event->start_us);
    cursor->in_partition = false;
    wanted.parent = enclosing_node(profile, cursor);
  } else {
    wanted.partition = partition_of(cursor, wanted.node);
  }
  struct profile_entry* entry = find_or_append(profile, &wanted, &cursor->place);
  if (!entry) return -1;
  entry->count++;
  entry->total_us += event->elapsed_us;
  entry->run_us[profile->runs] += event->elapsed_us;
  if (event->type == EVENT_NODE && cursor->depth < DEEPEST) {
    cursor->outer[cursor->depth].entry = cursor->place;
    cursor->outer[cursor->depth++].end_us = event->start_us + event->elapsed_us;
  }
  return 0;
}

/* The first "Invoke" is the model's; a later one is that of an inner graph, run by the node around it. */
static void add_invoke(struct profile* profile, const struct litert_event* event, struct cursor* cursor) {
  if (!cursor->invoked) profile->invoke_us[profile->runs] = event->elapsed_us;
  cursor->invoked = true;
  leave_finished(cursor, event->start_us);
  (void)enclosing_node(profile, cursor);
}

int profile_add_run(struct profile* profile, const struct litert_event* events, size_t count) {
  struct cursor cursor = {.place = profile->count ? profile->count - 1 : 0, .partition = -1};
  if (make_room_for_run(profile)) return -1;
  for (size_t i = 0; i < count; i++) {
    int type = events[i].type;
    if (type == EVENT_DEFAULT && !strcmp(events[i].tag, "Invoke")) add_invoke(profile, &events[i], &cursor);
    if (type != EVENT_NODE && type != EVENT_DELEGATE && type != EVENT_DELEGATE_PROFILED) continue;
    if (add_operation(profile, &events[i], &cursor)) return -1;
  }
  profile->runs++;
  return 0;
}

static const char* kind_name(int type) {
  return type == EVENT_NODE ? "node" : "delegate";
}

static void put_entry(struct json* json, const struct profile_entry* entry, size_t runs) {
  struct stats stats;
  json_open(json, NULL, '{');
  json_integer(json, "node", entry->node);
  json_string(json, "tag", entry->tag);
  json_string(json, "kind", kind_name(entry->type));
  json_integer(json, "event_type", entry->type);
  json_integer(json, "partition", entry->partition);
  json_integer(json, "parent", entry->parent);
  json_integer(json, "subgraph", entry->subgraph);
  json_integer(json, "count", (int64_t)entry->count);
  json_number(json, "per_run", (double)entry->count / (double)runs, 3);
  json_number(json, "total_us", (double)entry->total_us, 0);
  json_number(json, "avg_us", (double)entry->total_us / (double)entry->count, 3);
  if (stats_of(entry->run_us, runs, &stats)) {
    json->failed = true;
    return;
  }
  json_number(json, "median_us", stats.median, 1);
  json_number(json, "min_us", stats.min, 0);
  json_close(json, '}');
}

static void put_entries(struct json* json, const char* key, const struct profile* profile, bool with_children) {
  json_open(json, key, '[');
  for (size_t i = 0; i < profile->count; i++) {
    if (profile->entries[i].has_children == with_children) put_entry(json, &profile->entries[i], profile->runs);
  }
  json_close(json, ']');
}

static double leaves_us(const struct profile* profile) {
  double sum = 0;
  for (size_t i = 0; i < profile->count; i++) {
    if (!profile->entries[i].has_children) sum += (double)profile->entries[i].total_us;
  }
  return sum / (double)profile->runs;
}

void profile_put(struct json* json, const struct profile* profile) {
  struct stats invoke;
  if (!profile) {
    json_null(json, "profile");
    return;
  }
  if (stats_of(profile->invoke_us, profile->runs, &invoke)) {
    json->failed = true;
    return;
  }
  json_open(json, "profile", '{');
  json_integer(json, "runs", (int64_t)profile->runs);
  json_number(json, "invoke_avg_us", invoke.avg, 3);
  json_number(json, "invoke_median_us", invoke.median, 1);
  json_number(json, "ops_avg_us", leaves_us(profile), 3);
  put_entries(json, "ops", profile, false);
  put_entries(json, "spans", profile, true);
  json_close(json, '}');
}
