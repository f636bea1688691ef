/* api.h - what the agent calls of this library. */
#ifndef CGPU_ARBITER_API_H
#define CGPU_ARBITER_API_H

#define CGPU_ARBITER_API __attribute__((visibility("default")))

#endif
