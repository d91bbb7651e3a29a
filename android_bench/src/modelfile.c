#include "modelfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD_BYTES = 8, SMALLEST_TABLE_BYTES = 4 };

static uint32_t little_endian(const unsigned char* bytes) {
  return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* A flatbuffer starts with the offset of its root table; the table starts with the distance back to its vtable, whose
 * first two bytes are its own length. All of it has to lie in the file. */
static int root_is_inside(int file, int64_t bytes, const unsigned char* head) {
  unsigned char raw[4];
  int64_t root = little_endian(head);
  if (root < HEAD_BYTES || root > bytes - SMALLEST_TABLE_BYTES || pread(file, raw, 4, root) != 4) return 0;
  int64_t vtable = root - (int32_t)little_endian(raw);
  if (vtable < HEAD_BYTES || vtable > bytes - SMALLEST_TABLE_BYTES || pread(file, raw, 4, vtable) != 4) return 0;
  int64_t length = raw[0] | raw[1] << 8;
  return length >= SMALLEST_TABLE_BYTES && vtable + length <= bytes;
}

static int check_open(int file, const char* path, int64_t* bytes, struct error* error) {
  unsigned char head[HEAD_BYTES];
  struct stat about;
  if (fstat(file, &about)) return fail(error, EXIT_MODEL, "model '%s' cannot be read (%s)", path, strerror(errno));
  if (!S_ISREG(about.st_mode)) return fail(error, EXIT_MODEL, "model '%s' is not a file: name a .tflite file", path);
  *bytes = about.st_size;
  if (!*bytes) return fail(error, EXIT_MODEL, "model '%s' is empty: copy it again", path);
  if (*bytes < HEAD_BYTES || pread(file, head, HEAD_BYTES, 0) != HEAD_BYTES || memcmp(head + 4, "TFL3", 4)) {
    return fail(error, EXIT_MODEL, "model '%s' is not a .tflite (no TFL3 mark): convert it first", path);
  }
  if (!root_is_inside(file, *bytes, head)) {
    return fail(error, EXIT_MODEL, "model '%s' is truncated or damaged (%lld bytes): copy or convert it again", path,
                (long long)*bytes);
  }
  return 0;
}

int modelfile_check(const char* path, int64_t* bytes, struct error* error) {
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not make us wait */
  if (file < 0) {
    return fail(error, EXIT_MODEL, "model '%s' cannot be read (%s): check its path and permissions", path,
                strerror(errno));
  }
  int result = check_open(file, path, bytes, error);
  close(file);
  return result;
}
