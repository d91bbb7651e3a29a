#include "outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int folder_of(const char* path, char* folder, size_t room) {
  const char* slash = strrchr(path, '/');
  if (!slash) return snprintf(folder, room, ".") < 0;
  int length = slash == path ? 1 : (int)(slash - path);
  return (size_t)snprintf(folder, room, "%.*s", length, path) >= room;
}

static int refuse(struct error* error, const char* path, const char* reason) {
  return fail(error, EXIT_WRITE, "cannot write the result to '%s' (%s): choose a folder that exists and can be written",
              path, reason);
}

int outfile_check(const char* path, struct error* error) {
  char folder[PATH_MAX];
  struct stat about;
  if (folder_of(path, folder, sizeof folder)) return refuse(error, path, "the name is too long");
  if (!stat(path, &about) && S_ISDIR(about.st_mode)) return refuse(error, path, "it is a folder");
  if (access(folder, W_OK | X_OK)) return refuse(error, path, strerror(errno));
  return 0;
}

static int write_all(int file, const char* text, size_t length) {
  while (length) {
    ssize_t written = write(file, text, length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return -1;
    text += written;
    length -= (size_t)written;
  }
  return 0;
}

/* Some phones' file systems refuse to sync a folder; the rename itself has happened then, so that is no failure. */
static void sync_folder(const char* path) {
  char folder[PATH_MAX];
  if (folder_of(path, folder, sizeof folder)) return;
  int file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  (void)fsync(file);
  close(file);
}

int outfile_write(const char* path, const char* text, size_t length, struct error* error) {
  char aside[PATH_MAX];
  if ((size_t)snprintf(aside, sizeof aside, "%s.%ld.tmp", path, (long)getpid()) >= sizeof aside) {
    return refuse(error, path, "the name is too long");
  }
  int file = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return refuse(error, path, strerror(errno));
  int trouble = write_all(file, text, length) || fsync(file) ? errno : 0;
  if (close(file) && !trouble) trouble = errno;
  if (!trouble && rename(aside, path)) trouble = errno;
  if (trouble) {
    unlink(aside);
    return refuse(error, path, strerror(trouble));
  }
  sync_folder(path);
  return 0;
}

int outfile_stdout(const char* text, size_t length, struct error* error) {
  if (!write_all(STDOUT_FILENO, text, length)) return 0;
  return fail(error, EXIT_WRITE, "cannot write to stdout (%s): keep its reader open, or use --out", strerror(errno));
}
