#include "device.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static int digit_value(char digit) {
  return isdigit((unsigned char)digit) ? digit - '0' : tolower((unsigned char)digit) - 'a' + 10;
}

static void mask_to_set(const char* mask, cpu_set_t* set) {
  size_t length = strlen(mask);
  CPU_ZERO(set);
  for (size_t i = 0; i < length; i++) {
    for (size_t bit = 0; bit < 4; bit++) {
      size_t cpu = 4 * (length - 1 - i) + bit;
      if (digit_value(mask[i]) >> bit & 1 && cpu < CPU_SETSIZE) CPU_SET(cpu, set);
    }
  }
}

static void set_to_mask(const cpu_set_t* set, char mask[CPU_MASK_ROOM]) {
  size_t length = 0;
  for (size_t nibble = CPU_SETSIZE / 4; nibble-- > 0;) {
    int value = 0;
    for (size_t bit = 0; bit < 4; bit++) value |= (CPU_ISSET(4 * nibble + bit, set) ? 1 : 0) << bit;
    if (value || length || nibble == 0) mask[length++] = "0123456789abcdef"[value];
  }
  mask[length] = '\0';
}

static void allowed_cpus(cpu_set_t* set) {
  CPU_ZERO(set);
  (void)sched_getaffinity(0, sizeof *set, set);
}

int device_pin(const char* mask, struct error* error) {
  char got_mask[CPU_MASK_ROOM];
  cpu_set_t asked, got;
  mask_to_set(mask, &asked);
  int refused = sched_setaffinity(0, sizeof asked, &asked) ? errno : 0;
  allowed_cpus(&got);
  if (!refused && CPU_EQUAL(&asked, &got)) return 0;
  set_to_mask(&got, got_mask);
  return fail(error, EXIT_CPU,
              "--cpu-mask %s was refused (%s; now %s): name only CPUs that exist and are online and allowed", mask,
              refused ? strerror(refused) : "the kernel granted less", got_mask);
}

void device_cpu_mask(char mask[CPU_MASK_ROOM]) {
  cpu_set_t set;
  allowed_cpus(&set);
  set_to_mask(&set, mask);
}

int device_cpu_count(void) {
  cpu_set_t set;
  allowed_cpus(&set);
  return CPU_COUNT(&set);
}

int device_thread_count(void) {
  int count = 0;
  DIR* tasks = opendir("/proc/self/task");
  if (!tasks) return -1;
  for (struct dirent* entry; (entry = readdir(tasks));) count += entry->d_name[0] != '.';
  closedir(tasks);
  return count;
}

/* Reads the first line of folder/name, without its end. Returns 0, or -1 where it may not be read. */
static int read_line(const char* folder, const char* name, char* line, int room) {
  char path[4096];
  if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path) return -1;
  FILE* file = fopen(path, "re");
  if (!file) return -1;
  char* got = fgets(line, room, file);
  fclose(file);
  if (!got) return -1;
  line[strcspn(line, "\n")] = '\0';
  return 0;
}

static int read_integer(const char* folder, const char* name, long* value) {
  char line[64], *end;
  if (read_line(folder, name, line, sizeof line)) return -1;
  *value = strtol(line, &end, 10);
  return end == line ? -1 : 0;
}

static int read_clock(const char* sysfs, long cpu, long* khz) {
  char folder[2048];
  snprintf(folder, sizeof folder, "%s/devices/system/cpu/cpu%ld/cpufreq", sysfs, cpu);
  return read_integer(folder, "scaling_cur_freq", khz);
}

void device_put_clocks(struct json* json, const char* key, const char* sysfs) {
  long cpus = sysconf(_SC_NPROCESSORS_CONF), khz;
  bool any = false;
  for (long cpu = 0; cpu < cpus; cpu++) any = any || !read_clock(sysfs, cpu, &khz);
  json_open(json, key, '[');
  for (long cpu = 0; any && cpu < cpus; cpu++) {
    if (read_clock(sysfs, cpu, &khz)) {
      json_null(json, NULL);
    } else {
      json_integer(json, NULL, khz);
    }
  }
  json_close(json, ']');
}

static void put_zone(struct json* json, const char* folder) {
  char type[128];
  long temperature_mc;
  if (read_integer(folder, "temp", &temperature_mc)) return;
  json_open(json, NULL, '{');
  json_string(json, "type", read_line(folder, "type", type, sizeof type) ? NULL : type);
  json_integer(json, "mc", temperature_mc);
  json_close(json, '}');
}

static int is_zone(const struct dirent* entry) {
  return !strncmp(entry->d_name, "thermal_zone", strlen("thermal_zone"));
}

void device_put_temperatures(struct json* json, const char* key, const char* sysfs) {
  char folder[2048], zone[4096];
  struct dirent** entries = NULL;
  snprintf(folder, sizeof folder, "%s/class/thermal", sysfs);
  int count = scandir(folder, &entries, is_zone, alphasort);
  json_open(json, key, '[');
  for (int i = 0; i < count; i++) {
    if ((size_t)snprintf(zone, sizeof zone, "%s/%s", folder, entries[i]->d_name) < sizeof zone) put_zone(json, zone);
    free(entries[i]);
  }
  free(entries);
  json_close(json, ']');
}

long device_peak_rss_kb(void) {
  struct rusage usage;
  return getrusage(RUSAGE_SELF, &usage) ? -1 : usage.ru_maxrss;
}

long device_involuntary_switches(void) {
  struct rusage usage;
  return getrusage(RUSAGE_SELF, &usage) ? -1 : usage.ru_nivcsw;
}
