/* card_cgroup.c - the cgroups of the processes, and the memory limits on them (as driver r615 has:
 * nvmlDeviceSetMemoryLimits_v1).
 *
 * A cgroup is known by its path and, where its folder can be seen, by the inode of that folder, which
 * is the same in every cgroup namespace: a container sees itself at "/", its host at "/docker/abc".
 */
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "card_internal.h"

#define MOUNT "/sys/fs/cgroup"

static struct sg_cgroup *cgroup_at(uint32_t index) { return &sg_state->cgroup[index]; }

static uint64_t inode_of(const char *path) {
  char folder[sizeof MOUNT + SG_CGROUP_PATH];
  struct stat status;
  snprintf(folder, sizeof folder, MOUNT "%s", path);
  return stat(folder, &status) == 0 ? (uint64_t)status.st_ino : 0;
}

static void name_membership(struct sg_membership *membership, const char *path, bool real) {
  memset(membership, 0, sizeof *membership);
  if (strncmp(path, MOUNT, sizeof MOUNT - 1) == 0) path += sizeof MOUNT - 1;
  snprintf(membership->path, sizeof membership->path, "%s%s", *path == '/' ? "" : "/", path);
  size_t length = strlen(membership->path);
  if (length > 1 && membership->path[length - 1] == '/') membership->path[length - 1] = 0;
  membership->inode = real ? inode_of(membership->path) : 0;
}

void sg_membership_of_self(struct sg_membership *membership) {
  const char *stand_in = getenv("CGPU_SIM_CGROUP");
  if (stand_in && *stand_in) {
    name_membership(membership, stand_in, false);
    return;
  }
  char line[512], path[512] = "/";
  bool first = true, unified = false;
  FILE *file = fopen("/proc/self/cgroup", "re"); /* lines "hierarchy:controllers:path"; v2 is "0::path" */
  while (file && !unified && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    char *second = strchr(line, ':');
    char *third = second ? strchr(second + 1, ':') : NULL;
    unified = strncmp(line, "0::", 3) == 0;
    if (third && (first || unified)) snprintf(path, sizeof path, "%s", third + 1);
    first = false;
  }
  if (file) fclose(file);
  name_membership(membership, path, unified);
}

/* Whether this process sees the hierarchy from its root. In a cgroup namespace a path says too little. */
static bool sees_all(void) {
  struct statfs system;
  struct stat status;
  return statfs(MOUNT, &system) == 0 && system.f_type == CGROUP2_SUPER_MAGIC && stat(MOUNT, &status) == 0 &&
         status.st_ino == 1;
}

/* The limits of a cgroup go with it, as the kernel's do. */
static void drop_gone(void) {
  if (!sees_all()) return;
  for (uint32_t i = 1; i < sg_state->cgroup_end; i++) {
    struct sg_cgroup *cgroup = cgroup_at(i);
    if (!cgroup->inode || !cgroup->path[1] || cgroup->processes || inode_of(cgroup->path) == cgroup->inode) continue;
    for (int card = 0; card < SG_MAX_CARDS; card++) {
      if (cgroup->card[card].hard_bytes) SG_SET(cgroup->card[card].hard_bytes, 0);
      if (cgroup->card[card].soft_bytes) SG_SET(cgroup->card[card].soft_bytes, 0);
    }
  }
}

static uint32_t find(const struct sg_membership *membership) {
  for (uint32_t i = 1; i < sg_state->cgroup_end; i++) {
    const struct sg_cgroup *cgroup = cgroup_at(i);
    bool both = cgroup->inode && membership->inode;
    if (both ? cgroup->inode == membership->inode : strcmp(cgroup->path, membership->path) == 0) return i;
  }
  return 0;
}

/* A new record, or when there is none that of a cgroup without processes and limits, the longest unused. */
static uint32_t spare(void) {
  uint32_t best = 0, end = (uint32_t)sg_state->cgroup_end;
  if (end < SG_MAX_CGROUPS) return end ? end : 1;
  drop_gone();
  for (uint32_t i = 1; i < sg_state->cgroup_end; i++) {
    const struct sg_cgroup *cgroup = cgroup_at(i);
    bool wanted = cgroup->processes != 0;
    for (int card = 0; card < SG_MAX_CARDS; card++)
      wanted |= cgroup->card[card].hard_bytes || cgroup->card[card].soft_bytes;
    if (!wanted && (!best || cgroup->touched_ns < cgroup_at(best)->touched_ns)) best = i;
  }
  return best;
}

uint32_t sg_cgroup_intern(const struct sg_membership *membership) {
  uint32_t index = find(membership);
  struct sg_cgroup *cgroup = cgroup_at(index);
  if (index == 0) {
    static const struct sg_cgroup_card nothing;
    index = spare();
    if (index == 0) return 0;
    cgroup = cgroup_at(index);
    for (int card = 0; card < SG_MAX_CARDS; card++) sg_set_bytes(&cgroup->card[card], &nothing, sizeof nothing);
    SG_SET(cgroup->processes, 0);
    if (index >= sg_state->cgroup_end) SG_SET(sg_state->cgroup_end, (uint64_t)index + 1);
    SG_SET(cgroup->inode, membership->inode);
    sg_set_bytes(cgroup->path, membership->path, sizeof cgroup->path);
  }
  /* The name from outside a cgroup namespace says more than the one from inside. */
  if (strlen(membership->path) > strlen(cgroup->path)) sg_set_bytes(cgroup->path, membership->path, sizeof cgroup->path);
  if (!cgroup->inode) SG_SET(cgroup->inode, membership->inode);
  SG_SET(cgroup->touched_ns, sg_state->time_ns);
  return index;
}

/* Whether `below` is `above` or in the tree under it. */
static bool contains(uint32_t above, uint32_t below) {
  if (above == below) return true;
  const char *path = cgroup_at(above)->path;
  size_t length = strlen(path);
  return length > 1 && strncmp(cgroup_at(below)->path, path, length) == 0 && cgroup_at(below)->path[length] == '/';
}

uint64_t sg_cgroup_used(uint32_t above, int card) {
  uint64_t sum = 0;
  for (uint32_t i = 1; i < sg_state->cgroup_end; i++)
    if (contains(above, i)) sum += cgroup_at(i)->card[card].used_bytes;
  return sum;
}

bool sg_cgroup_fits(uint32_t cgroup, int card, uint64_t bytes) {
  for (uint32_t i = 1; i < sg_state->cgroup_end; i++) {
    uint64_t hard_bytes = cgroup_at(i)->card[card].hard_bytes;
    if (!hard_bytes || !contains(i, cgroup)) continue;
    uint64_t used = sg_cgroup_used(i, card);
    if (used > hard_bytes || bytes > hard_bytes - used) return false;
  }
  return true;
}

int sg_memory_limit(int card, uint64_t *limit_bytes, uint64_t *used_bytes) {
  if (!sg_card(card)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t cgroup = sg_state->process[sg_self].cgroup;
  uint64_t hard_bytes = cgroup_at(cgroup)->card[card].hard_bytes;
  *limit_bytes = hard_bytes ? hard_bytes : UINT64_MAX;
  *used_bytes = sg_cgroup_used(cgroup, card);
  sg_unlock();
  return SG_OK;
}

int sg_set_memory_limit(int card, const char *path, uint64_t hard_bytes, uint64_t soft_bytes) {
  if (!sg_card(card) || !path || strlen(path) >= SG_CGROUP_PATH) return SG_E_INVALID;
  struct sg_membership membership;
  name_membership(&membership, path, true);
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  drop_gone();
  uint32_t index = sg_cgroup_intern(&membership);
  if (index) {
    SG_SET(cgroup_at(index)->card[card].hard_bytes, hard_bytes);
    SG_SET(cgroup_at(index)->card[card].soft_bytes, soft_bytes);
  }
  sg_unlock();
  return index ? SG_OK : SG_E_FULL;
}

int sg_get_memory_limit(int card, const char *path, uint64_t *hard_bytes, uint64_t *soft_bytes) {
  if (!sg_card(card) || !path || strlen(path) >= SG_CGROUP_PATH) return SG_E_INVALID;
  struct sg_membership membership;
  name_membership(&membership, path, true);
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  uint32_t index = find(&membership);
  *hard_bytes = index ? cgroup_at(index)->card[card].hard_bytes : 0;
  *soft_bytes = index ? cgroup_at(index)->card[card].soft_bytes : 0;
  sg_unlock();
  return SG_OK;
}
