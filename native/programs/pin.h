/* pin.h - /etc of a container as a mount point, which its root cannot rename. */
#ifndef CGPU_PROGRAMS_PIN_H
#define CGPU_PROGRAMS_PIN_H

/* Binds <root>/etc onto itself, with what is mounted below it; the preload file is named from there. For
 * the mount namespace of a container whose root is not entered yet. A root that is read-only needs none,
 * and one without a folder /etc can have none. An exit status. */
int pin_etc(const char *bundle);

#endif
