/* The machine: which CPUs, how fast, how warm, how much memory. */
#ifndef ANDROID_BENCH_DEVICE_H
#define ANDROID_BENCH_DEVICE_H

#include "error.h"
#include "json.h"

enum { CPU_MASK_ROOM = 257 }; /* hexadecimal digits for 1024 CPUs, and the end */

/* Pins this thread (and threads made later) to the hexadecimal mask. Returns 0, or -1 with EXIT_CPU where the kernel
 * refuses it or grants less. */
int device_pin(const char* mask, struct error* error);

/* The CPUs this process may run on: as hexadecimal digits, and how many they are. */
void device_cpu_mask(char mask[CPU_MASK_ROOM]);
int device_cpu_count(void);

/* Threads of this process now. */
int device_thread_count(void);

/* Adds `key: [kHz of cpu0, cpu1, ...]`; null for a CPU that does not say, an empty array where none does. */
void device_put_clocks(struct json* json, const char* key, const char* sysfs);

/* Adds `key: [{"type": text, "mc": millidegrees Celsius}, ...]` of the thermal zones that may be read. */
void device_put_temperatures(struct json* json, const char* key, const char* sysfs);

/* Largest resident size so far, in KiB; and times the kernel took the CPU away from any of our threads. */
long device_peak_rss_kb(void);
long device_involuntary_switches(void);

#endif
