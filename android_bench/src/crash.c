#include "crash.h"

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t crash_code;
static const char* volatile crash_sentence;

static void write_text(const char* text) {
  ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
  (void)ignored; /* nothing is left to be done about it */
}

static void on_crash(int number) {
  char digits[] = {(char)('0' + number / 10), (char)('0' + number % 10), '\0'};
  write_text("android_bench: error: ");
  write_text(crash_sentence);
  write_text(" (signal ");
  write_text(digits[0] == '0' ? digits + 1 : digits);
  write_text(")\n");
  _exit(crash_code);
}

static void on_deadline(int number) {
  (void)number;
  write_text("android_bench: error: LiteRT gave no answer in time: raise --max-secs, or use a smaller model\n");
  _exit(EXIT_RUN);
}

static void install(void) {
  static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
  static char stack[64 * 1024]; /* a crash may be the end of the ordinary stack */
  stack_t aside = {.ss_sp = stack, .ss_size = sizeof stack};
  struct sigaction action = {.sa_handler = on_crash, .sa_flags = (int)(SA_ONSTACK | SA_RESETHAND)};
  sigaltstack(&aside, NULL);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
}

void crash_means(enum exit_code code, const char* sentence) {
  static bool installed;
  crash_sentence = sentence;
  crash_code = (sig_atomic_t)code;
  if (!installed) install();
  installed = true;
}

void crash_after(double seconds) {
  const struct sigaction action = {.sa_handler = on_deadline};
  const struct itimerval deadline = {.it_value = {.tv_sec = (time_t)seconds + 1}};
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &deadline, NULL);
}
