/* A JSON text that grows in memory; commas are put in as needed. */
#ifndef ANDROID_BENCH_JSON_H
#define ANDROID_BENCH_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json {
  char* text;
  size_t length, room;
  bool failed; /* memory ran out: text is not to be used */
};

/* In all of these a NULL key means an element of an array (or the outermost value). Numbers that JSON cannot hold
 * become null, and so does a NULL string. */
void json_open(struct json* json, const char* key, char bracket);
void json_close(struct json* json, char bracket);
void json_null(struct json* json, const char* key);
void json_bool(struct json* json, const char* key, bool value);
void json_integer(struct json* json, const char* key, int64_t value);
void json_number(struct json* json, const char* key, double value, int decimals);
void json_string(struct json* json, const char* key, const char* value);

#endif
