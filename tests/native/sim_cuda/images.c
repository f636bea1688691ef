/* images.c - binary images: a cubin made here, fat binaries around it, and thousands of broken ones. */
#include <elf.h>

#include "check.h"
#include "cuda_image.h"

enum { NULL_SECTION, NAMES, STRINGS, SYMBOLS, CODE, KERNEL_INFO, INFO, INITIAL, ZEROS, SECTIONS };

static const char section_names[] =
    "\0.shstrtab\0.strtab\0.symtab\0.text.k\0.nv.info.k\0.nv.info\0.nv.global.init\0.nv.global";
static const char symbol_names[] = "\0k\0counter\0table";
/* one 8-byte and one 24-byte parameter, 32 bytes in all, at most 64 x 2 x 1 threads */
static const unsigned char kernel_info[] = {
    4, 0x17, 12, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0x00, 0xf0, 0x61, 0,
    4, 0x17, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0xf0, 0x21, 0,
    3, 0x19, 32, 0, 4, 0x05, 12, 0, 64, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0};
static const unsigned char info[] = {4, 0x2f, 8, 0, 1, 0, 0, 0, 40, 0, 0, 0}; /* symbol 1 uses 40 registers */
static const uint32_t seven = 7;

static unsigned name_of(const char *names, size_t size, const char *name) {
  for (size_t at = 1; at < size; at += strlen(names + at) + 1)
    if (!strcmp(names + at, name))
      return (unsigned)at;
  REQUIRE(!"the name is in the table");
  return 0;
}

#define SECTION(name) name_of(section_names, sizeof section_names, name)
#define SYMBOL(name) name_of(symbol_names, sizeof symbol_names, name)

static size_t append(unsigned char *image, size_t *at, const void *data, size_t size) {
  size_t start = *at;
  memcpy(image + start, data, size);
  *at = (start + size + 7) / 8 * 8;
  return start;
}

/* A cubin for the architecture with a kernel `k`, `counter` = 7, and `table` of 128 zeros. */
static size_t make_cubin(unsigned char *image, unsigned architecture) {
  const Elf64_Sym symbols[] = {
      {0},
      {.st_name = SYMBOL("k"), .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_other = 0x10, .st_shndx = CODE},
      {.st_name = SYMBOL("counter"), .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT), .st_shndx = INITIAL, .st_size = 4},
      {.st_name = SYMBOL("table"), .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT), .st_shndx = ZEROS, .st_size = 128},
  };
  static const unsigned char code[256];
  const struct { const char *name; unsigned type; const void *data; size_t size; } rows[SECTIONS] = {
      [NAMES] = {".shstrtab", SHT_STRTAB, section_names, sizeof section_names},
      [STRINGS] = {".strtab", SHT_STRTAB, symbol_names, sizeof symbol_names},
      [SYMBOLS] = {".symtab", SHT_SYMTAB, symbols, sizeof symbols},
      [CODE] = {".text.k", SHT_PROGBITS, code, sizeof code},
      [KERNEL_INFO] = {".nv.info.k", SHT_LOPROC, kernel_info, sizeof kernel_info},
      [INFO] = {".nv.info", SHT_LOPROC, info, sizeof info},
      [INITIAL] = {".nv.global.init", SHT_PROGBITS, &seven, sizeof seven},
      [ZEROS] = {".nv.global", SHT_NOBITS, NULL, 128},
  };
  Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT, 0x33, 7},
                       .e_type = ET_EXEC, .e_machine = 190, .e_flags = architecture, .e_ehsize = sizeof header,
                       .e_shentsize = sizeof(Elf64_Shdr), .e_shnum = SECTIONS, .e_shstrndx = NAMES};
  Elf64_Shdr sections[SECTIONS] = {0};
  size_t at = sizeof header;
  for (int i = 1; i < SECTIONS; i++) {
    sections[i] = (Elf64_Shdr){.sh_name = SECTION(rows[i].name), .sh_type = rows[i].type, .sh_size = rows[i].size,
                               .sh_flags = i == CODE ? SHF_ALLOC | SHF_EXECINSTR : 0,
                               .sh_link = i == SYMBOLS ? STRINGS : 0, .sh_offset = at};
    if (rows[i].type != SHT_NOBITS)
      append(image, &at, rows[i].data, rows[i].size);
  }
  header.e_shoff = append(image, &at, sections, sizeof sections);
  memcpy(image, &header, sizeof header);
  return at;
}

static void check_kernel(CUmodule module) {
  CUfunction k;
  CUdeviceptr counter;
  size_t offset, bytes;
  uint32_t value;
  int got;
  OK(cuModuleGetFunction(&k, module, "k"));
  OK(cuFuncGetParamInfo(k, 1, &offset, &bytes));
  REQUIRE(offset == 8 && bytes == 24);
  RESULT(cuFuncGetParamInfo(k, 2, &offset, &bytes), CUDA_ERROR_INVALID_VALUE);
  OK(cuFuncGetAttribute(&got, CU_FUNC_ATTRIBUTE_NUM_REGS, k));
  REQUIRE(got == 40);
  OK(cuFuncGetAttribute(&got, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, k));
  REQUIRE(got == 128);
  OK(cuModuleGetGlobal_v2(&counter, &bytes, module, "counter"));
  OK(cuMemcpyDtoH_v2(&value, counter, 4));
  REQUIRE(bytes == 4 && value == 7);
  OK(cuModuleGetGlobal_v2(&counter, &bytes, module, "table"));
  REQUIRE(bytes == 128);
}

static unsigned own_architecture(void) { return sg_card(0)->cc_major * 10 + sg_card(0)->cc_minor; }

void check_cubin(void) {
  unsigned char image[4096];
  CUmodule module;
  use_device(0);
  make_cubin(image, own_architecture());
  OK(cuModuleLoadData(&module, image));
  check_kernel(module);
  make_cubin(image, own_architecture() + 10);
  RESULT(cuModuleLoadData(&module, image), CUDA_ERROR_NO_BINARY_FOR_GPU);
}

/* ---- fat binaries: the header, then entries of a 64-byte header and an image each ---- */

static size_t make_fatbin(unsigned char *out, const unsigned *architectures, unsigned count) {
  size_t at = 16;
  for (unsigned i = 0; i < count; i++) {
    unsigned char image[4096] = {0};
    uint64_t bytes = make_cubin(image, architectures[i]);
    memset(out + at, 0, 64);
    memcpy(out + at, &(const uint16_t[]){2, 0x101}, 4);
    memcpy(out + at + 4, &(const uint32_t){64}, 4);
    memcpy(out + at + 8, &bytes, 8);
    memcpy(out + at + 28, &architectures[i], 4);
    memcpy(out + at + 64, image, bytes);
    at += 64 + bytes;
  }
  uint64_t body = at - 16;
  memcpy(out, &(const uint32_t){0xba55ed50}, 4);
  memcpy(out + 4, &(const uint16_t[]){1, 16}, 4);
  memcpy(out + 8, &body, 8);
  return at;
}

void check_fatbin(void) {
  static unsigned char image[16384];
  const unsigned three[] = {own_architecture() + 10, own_architecture(), own_architecture() - 10};
  CUmodule module;
  CUlibrary library;
  CUkernel kernel;
  use_device(0);
  make_fatbin(image, three, 3);
  const struct { uint32_t magic, version; const void *data; void *unused; } wrapper = {0x466243b1, 1, image, NULL};
  OK(cuModuleLoadFatBinary(&module, image));
  check_kernel(module);
  OK(cuModuleLoadData(&module, &wrapper));
  check_kernel(module);
  OK(cuLibraryLoadData(&library, &wrapper, NULL, NULL, 0, NULL, NULL, 0));
  OK(cuLibraryGetKernel(&kernel, library, "k"));
  OK(cuLibraryGetModule(&module, library));
  check_kernel(module);
  make_fatbin(image, three, 1);
  RESULT(cuModuleLoadFatBinary(&module, image), CUDA_ERROR_NO_BINARY_FOR_GPU);
}

/* ---- foreign bytes: any answer will do, as long as nothing outside the image is touched ---- */

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t limit) {
  random_state = random_state * 1664525 + 1013904223;
  return (uint32_t)(((uint64_t)random_state * limit) >> 32);
}

/* Each broken image in a block of its own size, so that a sanitizer sees the first byte behind it. */
static unsigned read_broken(const unsigned char *seed, size_t size, int rounds) {
  unsigned accepted = 0;
  for (int round = 0; round < rounds; round++) {
    size_t cut = random_below(4) ? size : random_below((uint32_t)size) + 1;
    unsigned char *copy = malloc(cut);
    struct sim_image *image;
    memcpy(copy, seed, cut);
    for (uint32_t change = random_below(8); change; change--) {
      static const unsigned char edges[] = {0, 1, 0x7f, 0x80, 0xff};
      copy[random_below((uint32_t)cut)] = random_below(2) ? edges[random_below(5)] : (unsigned char)random_below(256);
    }
    if (sim_image_read(copy, cut, 0, &image) == CUDA_SUCCESS) {
      accepted++;
      sim_image_release(image);
    }
    free(copy);
  }
  return accepted;
}

void check_foreign_bytes(void) {
  static unsigned char image[16384];
  const unsigned two[] = {own_architecture(), own_architecture()};
  static const unsigned char ptx[] =
      ".version 6.5\n.target sm_70 // \"\n.visible .global .align 4 .u32 c[2] = {1, -2};\n.extern .global .u8 e[];\n"
      ".func f(.param .b32 x) { { ret; } }\n.visible .entry k(.param .u64 .ptr .align 4 a, .param .align 8 .b8 s[24])\n"
      ".maxntid 64, 2, 1\n{ /* } */ .shared .align 4 .v4 .f32 t[8]; ret; }\n";
  use_device(0);
  size_t cubin = make_cubin(image, two[0]);
  REQUIRE(read_broken(image, cubin, 4000) > 100);
  void *joined;
  size_t joined_bytes;
  const struct sim_image_part parts[] = {{ptx, sizeof ptx}, {image, cubin}};
  OK(sim_image_join(parts, 2, &joined, &joined_bytes));
  REQUIRE(read_broken(joined, joined_bytes, 2000) > 100);
  free(joined);
  size_t fatbin = make_fatbin(image, two, 2);
  REQUIRE(read_broken(image, fatbin, 2000) > 100);
  REQUIRE(read_broken(ptx, sizeof ptx, 4000) > 100);
  REQUIRE(read_broken((const unsigned char *)test_module, strlen(test_module), 2000) > 100);
}
