/* say.h - what a program tells the person who reads its standard error. */
#ifndef CGPU_PROGRAMS_SAY_H
#define CGPU_PROGRAMS_SAY_H

/* One line on stderr, with "cgpu: " before it. Always 1, the exit status of a failure. */
__attribute__((format(printf, 1, 2))) int say(const char *format, ...);

#endif
