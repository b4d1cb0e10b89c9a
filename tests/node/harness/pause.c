/* What holds a pod's namespaces: it does nothing until it is told to end. As process 1 it is sent only what it handles. */
#include <signal.h>
#include <unistd.h>

static void end(int number) { (void)number; _exit(0); }

int main(void) {
  signal(SIGTERM, end);
  signal(SIGINT, end);
  for (;;) pause();
}
