#include "report.h"

#include "stats.h"

static void put_runtime(struct json* json, const struct session* session) {
  json_open(json, "runtime", '{');
  json_string(json, "name", "litert");
  json_string(json, "version", session->args->lib_version);
  json_string(json, "library", session->library);
  json_close(json, '}');
}

static void put_protocol(struct json* json, const struct args* args) {
  json_open(json, "protocol", '{');
  json_integer(json, "runs", args->runs);
  json_number(json, "min_secs", args->min_secs, 3);
  json_number(json, "max_secs", args->max_secs, 3);
  json_integer(json, "warmup_runs", args->warmup_runs);
  json_number(json, "warmup_secs", args->warmup_secs, 3);
  json_close(json, '}');
}

static void put_processor(struct json* json, const struct session* session) {
  char got[CPU_MASK_ROOM];
  device_cpu_mask(got);
  json_open(json, "threads", '{');
  json_integer(json, "asked", session->args->threads);
  json_integer(json, "got", session->threads_got);
  json_close(json, '}');
  json_open(json, "affinity", '{');
  json_string(json, "asked", session->args->cpu_mask);
  json_string(json, "got", got);
  json_close(json, '}');
}

static double sum_us(const struct timings* timings) {
  double sum_ns = 0;
  for (size_t i = 0; i < timings->count; i++) sum_ns += (double)timings->samples_ns[i];
  return sum_ns / 1e3;
}

/* NAN (null) without warm-up runs. */
static double warmup_avg_us(const struct session* session) {
  return sum_us(&session->warmup) / (double)session->warmup.count;
}

static void put_times(struct json* json, const struct session* session) {
  json_number(json, "init_us", (double)session->init_ns / 1e3, 3);
  json_number(json, "first_us", (double)session->first_ns / 1e3, 3);
  json_open(json, "warmup", '{');
  json_integer(json, "runs", (int64_t)session->warmup.count);
  json_number(json, "avg_us", warmup_avg_us(session), 3);
  json_close(json, '}');
  json_integer(json, "runs", (int64_t)session->timed.count);
  json_bool(json, "cut_short", session->timed.cut_short);
  json_number(json, "wall_us", (double)session->timed.wall_ns / 1e3, 3);
  json_open(json, "samples_ns", '[');
  for (size_t i = 0; i < session->timed.count; i++) json_integer(json, NULL, (int64_t)session->timed.samples_ns[i]);
  json_close(json, ']');
}

static void put_ms(struct json* json, const char* key, double nanoseconds) {
  json_number(json, key, nanoseconds / 1e6, 6);
}

static void put_latency(struct json* json, const struct session* session) {
  struct stats stats;
  if (stats_of(session->timed.samples_ns, session->timed.count, &stats)) {
    json->failed = true;
    return;
  }
  json_open(json, "latency_ms", '{');
  put_ms(json, "avg", stats.avg);
  put_ms(json, "min", stats.min);
  put_ms(json, "max", stats.max);
  put_ms(json, "stddev", stats.stddev);
  put_ms(json, "median", stats.median);
  put_ms(json, "p5", stats.p5);
  put_ms(json, "p90", stats.p90);
  put_ms(json, "p95", stats.p95);
  put_ms(json, "init", (double)session->init_ns);
  put_ms(json, "first_inference", (double)session->first_ns);
  put_ms(json, "average_warm_up", warmup_avg_us(session) * 1e3);
  json_close(json, '}');
}

static void put_tensors(struct json* json, const char* key, const struct tensor* tensors, size_t count) {
  json_open(json, key, '[');
  for (size_t i = 0; i < count; i++) {
    json_open(json, NULL, '{');
    json_string(json, "name", tensors[i].name);
    json_string(json, "type", runtime_type_name(tensors[i].type.element));
    json_open(json, "shape", '[');
    for (unsigned axis = 0; axis < tensors[i].type.rank; axis++) json_integer(json, NULL, tensors[i].type.dims[axis]);
    json_close(json, ']');
    json_close(json, '}');
  }
  json_close(json, ']');
}

void report_begin(const struct session* session, struct json* json) {
  const struct runtime* runtime = &session->runtime;
  json_open(json, NULL, '{');
  json_integer(json, "schema", 1);
  json_string(json, "bench_version", ANDROID_BENCH_VERSION);
  put_runtime(json, session);
  json_open(json, "model", '{');
  json_string(json, "path", session->args->model);
  json_integer(json, "bytes", session->model_bytes);
  json_close(json, '}');
  put_protocol(json, session->args);
  json_integer(json, "seed", (int64_t)session->args->seed);
  json_bool(json, "fully_accelerated", runtime->fully_accelerated);
  put_tensors(json, "inputs", runtime->inputs, runtime->input_count);
  put_tensors(json, "outputs", runtime->outputs, runtime->output_count);
  put_processor(json, session);
  device_put_temperatures(json, "temperature_mc_before", session->args->sysfs);
  device_put_clocks(json, "cpu_khz_before", session->args->sysfs);
}

int report_finish(const struct session* session, struct json* json, struct error* error) {
  device_put_clocks(json, "cpu_khz_after", session->args->sysfs);
  device_put_temperatures(json, "temperature_mc_after", session->args->sysfs);
  json_integer(json, "involuntary_switches", session->involuntary_switches);
  json_integer(json, "peak_rss_kb", device_peak_rss_kb());
  put_times(json, session);
  put_latency(json, session);
  json_bool(json, "profiled", session->args->profile);
  profile_put(json, session->args->profile ? &session->profile : NULL);
  json_close(json, '}');
  return json->failed ? fail_memory(error) : 0;
}
