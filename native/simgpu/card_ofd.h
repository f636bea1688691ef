/* card_ofd.h - locks on single bytes of the `locks` file, by open file description.
 *
 * The kernel releases such a lock when the last descriptor of that opening is closed, at the latest
 * with the process's death, whatever PID namespace it is in. See fcntl(2), "Open file description
 * locks".
 */
#ifndef CGPU_SIM_CARD_OFD_H
#define CGPU_SIM_CARD_OFD_H

#include <fcntl.h>
#include <stdbool.h>

#ifndef F_OFD_SETLK /* since Linux 3.15, younger than the oldest C library that we build for */
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

#define SG_LOCK_CREATE 0x100000 /* who creates the state holds this byte */

static inline struct flock sg_ofd_byte(long byte) {
  return (struct flock){.l_type = F_WRLCK, .l_whence = 0 /* SEEK_SET */, .l_start = byte, .l_len = 1};
}
static inline int sg_ofd_lock(int file, long byte) {
  struct flock range = sg_ofd_byte(byte);
  return fcntl(file, F_OFD_SETLK, &range);
}
static inline int sg_ofd_lock_wait(int file, long byte) {
  struct flock range = sg_ofd_byte(byte);
  return fcntl(file, F_OFD_SETLKW, &range);
}
static inline int sg_ofd_unlock(int file, long byte) {
  struct flock range = sg_ofd_byte(byte);
  range.l_type = F_UNLCK;
  return fcntl(file, F_OFD_SETLK, &range);
}
/* Whether another opening of the file has the byte locked. */
static inline bool sg_ofd_locked(int file, long byte) {
  struct flock range = sg_ofd_byte(byte);
  return fcntl(file, F_OFD_GETLK, &range) != 0 || range.l_type != F_UNLCK;
}

#endif
