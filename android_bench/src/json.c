#include "json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(struct json* json, const char* bytes, size_t count) {
  if (json->length + count + 1 > json->room) {
    size_t room = (json->length + count + 1) * 2;
    char* text = json->failed ? NULL : realloc(json->text, room);
    if (!text) {
      json->failed = true;
      return;
    }
    json->text = text;
    json->room = room;
  }
  memcpy(json->text + json->length, bytes, count);
  json->length += count;
  json->text[json->length] = '\0';
}

static void put_text(struct json* json, const char* text) {
  put(json, text, strlen(text));
}

/* Length of the well-formed UTF-8 sequence of two to four bytes that starts here, or 0. */
static size_t utf8_length(const unsigned char* byte) {
  if (byte[0] < 0xC2 || byte[0] > 0xF4) return 0;
  size_t length = byte[0] < 0xE0 ? 2 : byte[0] < 0xF0 ? 3 : 4;
  for (size_t i = 1; i < length; i++) {
    if ((byte[i] & 0xC0) != 0x80) return 0;
  }
  if (byte[0] == 0xE0 && byte[1] < 0xA0) return 0; /* overlong */
  if (byte[0] == 0xED && byte[1] > 0x9F) return 0; /* half of a surrogate pair */
  if (byte[0] == 0xF0 && byte[1] < 0x90) return 0; /* overlong */
  if (byte[0] == 0xF4 && byte[1] > 0x8F) return 0; /* beyond Unicode */
  return length;
}

/* Names of tensors, zones and files come from outside: any byte may appear, and the result must still be UTF-8. */
static void put_quoted(struct json* json, const char* value) {
  put_text(json, "\"");
  for (const unsigned char* byte = (const unsigned char*)value; *byte; byte++) {
    char escaped[8];
    if (*byte == '"' || *byte == '\\') {
      snprintf(escaped, sizeof escaped, "\\%c", *byte);
      put_text(json, escaped);
    } else if (*byte < 0x20) {
      snprintf(escaped, sizeof escaped, "\\u%04x", *byte);
      put_text(json, escaped);
    } else if (*byte < 0x80) {
      put(json, (const char*)byte, 1);
    } else {
      size_t length = utf8_length(byte);
      if (length) {
        put(json, (const char*)byte, length);
        byte += length - 1;
      } else {
        put_text(json, "\\ufffd");
      }
    }
  }
  put_text(json, "\"");
}

static void begin(struct json* json, const char* key) {
  char last = json->length ? json->text[json->length - 1] : '{';
  if (last != '{' && last != '[') put_text(json, ",");
  if (key) {
    put_quoted(json, key);
    put_text(json, ":");
  }
}

void json_open(struct json* json, const char* key, char bracket) {
  begin(json, key);
  put(json, &bracket, 1);
}

void json_close(struct json* json, char bracket) {
  put(json, &bracket, 1);
}

void json_null(struct json* json, const char* key) {
  begin(json, key);
  put_text(json, "null");
}

void json_bool(struct json* json, const char* key, bool value) {
  begin(json, key);
  put_text(json, value ? "true" : "false");
}

void json_integer(struct json* json, const char* key, int64_t value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%" PRId64, value);
  begin(json, key);
  put_text(json, digits);
}

void json_number(struct json* json, const char* key, double value, int decimals) {
  char digits[64];
  if (!isfinite(value) || fabs(value) > 1e30) {
    json_null(json, key);
    return;
  }
  snprintf(digits, sizeof digits, "%.*f", decimals, value);
  begin(json, key);
  put_text(json, digits);
}

void json_string(struct json* json, const char* key, const char* value) {
  if (!value) {
    json_null(json, key);
    return;
  }
  begin(json, key);
  put_quoted(json, value);
}
