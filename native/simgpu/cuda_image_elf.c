/* cuda_image_elf.c - reads a cubin: an ELF file for NVIDIA's GPUs.
 *
 * Kernels are function symbols with the entry bit; their parameters stand in .nv.info.<kernel> as
 * records of one format byte, one attribute byte, and a 16-bit value or length (`cuobjdump -elf` and
 * `readelf -x` show them). Every offset is checked: the image is foreign bytes.
 */
#include "cuda_image.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#define EM_CUDA_MACHINE 190
#define ENTRY_SYMBOL 0x10 /* in st_other */

enum info_format { FORMAT_NONE = 1, FORMAT_BYTE = 2, FORMAT_HALF = 3, FORMAT_SIZED = 4 };
enum info_attribute {
  INFO_MAX_THREADS = 0x05,
  INFO_FRAME_SIZE = 0x11,
  INFO_PARAMETER = 0x17, /* u32 index, u16 ordinal, u16 offset, u32 with the size from bit 18 on */
  INFO_PARAMETER_BYTES = 0x19,
  INFO_REGISTERS = 0x2f, /* u32 symbol, u32 count */
};

struct elf {
  const unsigned char *data;
  size_t size;
  Elf64_Ehdr header;
  Elf64_Shdr names, symbols, strings;
  bool has_symbols;
};

static bool inside(const struct elf *elf, uint64_t offset, uint64_t bytes) {
  return offset <= elf->size && bytes <= elf->size - offset;
}

static bool section_at(const struct elf *elf, unsigned index, Elf64_Shdr *section) {
  uint64_t offset = elf->header.e_shoff + (uint64_t)index * sizeof *section;
  if (index >= elf->header.e_shnum || !inside(elf, offset, sizeof *section))
    return false;
  memcpy(section, elf->data + offset, sizeof *section);
  return section->sh_type == SHT_NOBITS || inside(elf, section->sh_offset, section->sh_size);
}

/* A string of a string section, or NULL when it does not end inside. */
static const char *string_at(const struct elf *elf, const Elf64_Shdr *strings, uint64_t offset) {
  if (strings->sh_type == SHT_NOBITS || offset >= strings->sh_size)
    return NULL;
  const char *start = (const char *)elf->data + strings->sh_offset + offset;
  return memchr(start, 0, strings->sh_size - offset) ? start : NULL;
}

static bool find_section(const struct elf *elf, const char *prefix, const char *suffix, Elf64_Shdr *section) {
  size_t length = strlen(prefix);
  for (unsigned i = 1; i < elf->header.e_shnum; i++) {
    const char *name = section_at(elf, i, section) ? string_at(elf, &elf->names, section->sh_name) : NULL;
    if (name && !strncmp(name, prefix, length) && !strcmp(name + length, suffix))
      return true;
  }
  return false;
}

/* The end of what the headers name. A cubin's section headers lie behind its sections. */
size_t sim_elf_extent(const void *data, size_t size) {
  struct elf elf = {.data = data, .size = size};
  if (size < sizeof elf.header)
    return 0;
  memcpy(&elf.header, data, sizeof elf.header);
  if (memcmp(elf.header.e_ident, ELFMAG, SELFMAG) || elf.header.e_ident[EI_CLASS] != ELFCLASS64 ||
      elf.header.e_machine != EM_CUDA_MACHINE || elf.header.e_shentsize != sizeof(Elf64_Shdr))
    return 0;
  uint64_t end = elf.header.e_shoff + (uint64_t)elf.header.e_shnum * sizeof(Elf64_Shdr);
  uint64_t programs = elf.header.e_phoff + (uint64_t)elf.header.e_phnum * elf.header.e_phentsize;
  for (unsigned i = 0; i < elf.header.e_shnum; i++) {
    Elf64_Shdr section;
    if (!inside(&elf, elf.header.e_shoff + (uint64_t)i * sizeof section, sizeof section))
      return 0;
    memcpy(&section, elf.data + elf.header.e_shoff + (uint64_t)i * sizeof section, sizeof section);
    if (section.sh_type != SHT_NOBITS && section.sh_offset + section.sh_size > end)
      end = section.sh_offset + section.sh_size;
  }
  end = programs > end ? programs : end;
  return end <= size ? end : 0;
}

/* ---- .nv.info ---- */

struct record {
  unsigned format, attribute, half;
  const unsigned char *payload;
  size_t bytes;
};

static bool next_record(const unsigned char **at, const unsigned char *end, struct record *record) {
  const unsigned char *p = *at;
  if (end - p < 4)
    return false;
  *record = (struct record){.format = p[0], .attribute = p[1], .half = (unsigned)(p[2] | p[3] << 8), .payload = p + 4};
  if (record->format < FORMAT_NONE || record->format > FORMAT_SIZED)
    return false;
  record->bytes = record->format == FORMAT_SIZED ? record->half : 0;
  if (record->bytes > (size_t)(end - p) - 4)
    return false;
  *at = p + 4 + record->bytes;
  return true;
}

static uint32_t word(const unsigned char *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }

struct found_parameter {
  unsigned ordinal;
  uint32_t offset, bytes;
};

static int by_ordinal(const void *left, const void *right) {
  const struct found_parameter *a = left, *b = right;
  return a->ordinal < b->ordinal ? -1 : a->ordinal > b->ordinal;
}

static CUresult read_kernel_info(const unsigned char *at, size_t size, struct sim_image_function *function) {
  struct found_parameter found[SIM_MAX_PARAMETERS];
  const unsigned char *end = at + size;
  struct record record;
  unsigned count = 0;
  size_t bytes = 0;
  while (next_record(&at, end, &record)) {
    if (record.attribute == INFO_PARAMETER && record.bytes >= 12 && count < SIM_MAX_PARAMETERS) {
      const unsigned char *p = record.payload;
      const unsigned ordinal = (unsigned)(p[4] | p[5] << 8), offset = (unsigned)(p[6] | p[7] << 8);
      found[count++] = (struct found_parameter){ordinal, offset, word(p + 8) >> 18};
    } else if (record.attribute == INFO_PARAMETER_BYTES && record.format == FORMAT_HALF) {
      bytes = record.half;
    } else if (record.attribute == INFO_MAX_THREADS && record.bytes >= 12) {
      uint64_t threads = (uint64_t)word(record.payload) * word(record.payload + 4) * word(record.payload + 8);
      if (threads >= 1 && threads < function->max_threads)
        function->max_threads = (unsigned)threads;
    }
  }
  qsort(found, count, sizeof found[0], by_ordinal);
  for (unsigned i = 0; i < count; i++)
    if (found[i].ordinal != i || !sim_image_add_parameter(function, found[i].bytes, 1, found[i].offset))
      return CUDA_ERROR_INVALID_IMAGE;
  if (bytes > function->parameter_bytes)
    function->parameter_bytes = bytes;
  return CUDA_SUCCESS;
}

/* Records of the whole image that name a symbol. */
static void read_image_info(const struct elf *elf, uint32_t symbol, struct sim_image_function *function) {
  Elf64_Shdr section;
  if (!find_section(elf, ".nv.info", "", &section) || section.sh_type == SHT_NOBITS)
    return;
  const unsigned char *at = elf->data + section.sh_offset, *end = at + section.sh_size;
  for (struct record record; next_record(&at, end, &record);) {
    if (record.bytes < 8 || word(record.payload) != symbol)
      continue;
    if (record.attribute == INFO_REGISTERS)
      function->registers = word(record.payload + 4);
    else if (record.attribute == INFO_FRAME_SIZE)
      function->local_bytes = word(record.payload + 4);
  }
}

/* ---- symbols ---- */

static CUresult read_function(const struct elf *elf, uint32_t index, const char *name,
                              struct sim_image *image) {
  struct sim_image_function *function = sim_image_add_function(image, name, strlen(name));
  Elf64_Shdr section;
  if (!function)
    return CUDA_ERROR_OUT_OF_MEMORY;
  if (find_section(elf, ".nv.shared.", name, &section))
    function->shared_bytes = (unsigned)section.sh_size;
  if (find_section(elf, ".nv.constant3", "", &section))
    function->const_bytes = (unsigned)section.sh_size;
  read_image_info(elf, index, function);
  if (!find_section(elf, ".nv.info.", name, &section) || section.sh_type == SHT_NOBITS)
    return CUDA_SUCCESS;
  return read_kernel_info(elf->data + section.sh_offset, section.sh_size, function);
}

static CUresult read_global(const struct elf *elf, const Elf64_Sym *symbol, const char *name, struct sim_image *image) {
  Elf64_Shdr section;
  if (name[0] == '.' || symbol->st_size == 0 || !section_at(elf, symbol->st_shndx, &section))
    return CUDA_SUCCESS;
  if (symbol->st_value > section.sh_size || symbol->st_size > section.sh_size - symbol->st_value)
    return CUDA_ERROR_INVALID_IMAGE;
  struct sim_image_global *global = sim_image_add_global(image, name, strlen(name), symbol->st_size);
  if (!global)
    return CUDA_ERROR_OUT_OF_MEMORY;
  if (section.sh_type == SHT_NOBITS)
    return CUDA_SUCCESS;
  global->initial = malloc(symbol->st_size);
  if (!global->initial)
    return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(global->initial, elf->data + section.sh_offset + symbol->st_value, symbol->st_size);
  return CUDA_SUCCESS;
}

static CUresult read_symbols(const struct elf *elf, struct sim_image *image) {
  uint64_t count = elf->symbols.sh_size / sizeof(Elf64_Sym);
  for (uint64_t i = 1; i < count; i++) {
    Elf64_Sym symbol;
    memcpy(&symbol, elf->data + elf->symbols.sh_offset + i * sizeof symbol, sizeof symbol);
    const char *name = string_at(elf, &elf->strings, symbol.st_name);
    if (!name || !name[0] || symbol.st_shndx == SHN_UNDEF)
      continue;
    CUresult result = CUDA_SUCCESS;
    if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && (symbol.st_other & ENTRY_SYMBOL))
      result = read_function(elf, (uint32_t)i, name, image);
    else if (ELF64_ST_TYPE(symbol.st_info) == STT_OBJECT)
      result = read_global(elf, &symbol, name, image);
    if (result != CUDA_SUCCESS)
      return result;
  }
  return CUDA_SUCCESS;
}

/* Up to ABI version 7 (CUDA 12) the architecture is the low byte of the flags, then the next one. A
 * cubin runs on its own major architecture, from its minor on. */
static CUresult check_architecture(const struct elf *elf, int card, struct sim_image *image) {
  unsigned shift = elf->header.e_ident[EI_ABIVERSION] >= 8 ? 8 : 0;
  unsigned architecture = elf->header.e_flags >> shift & 0xff;
  image->binary_version = architecture;
  if (card < 0)
    return CUDA_SUCCESS;
  const struct sg_card_info *info = sg_card(card);
  bool fits = architecture / 10 == info->cc_major && architecture % 10 <= info->cc_minor;
  return fits ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

CUresult sim_image_read_elf(const void *data, size_t size, int card, struct sim_image *image) {
  struct elf elf = {.data = data, .size = sim_elf_extent(data, size)};
  if (!elf.size)
    return CUDA_ERROR_INVALID_IMAGE;
  memcpy(&elf.header, data, sizeof elf.header);
  CUresult result = check_architecture(&elf, card, image);
  if (result != CUDA_SUCCESS)
    return result;
  if (!section_at(&elf, elf.header.e_shstrndx, &elf.names))
    return CUDA_ERROR_INVALID_IMAGE;
  for (unsigned i = 1; i < elf.header.e_shnum; i++) {
    Elf64_Shdr section;
    if (!section_at(&elf, i, &section))
      return CUDA_ERROR_INVALID_IMAGE;
    if (section.sh_flags & SHF_EXECINSTR)
      image->code_bytes += section.sh_size;
    if (section.sh_type == SHT_SYMTAB) {
      elf.symbols = section;
      elf.has_symbols = section_at(&elf, section.sh_link, &elf.strings);
    }
  }
  return elf.has_symbols ? read_symbols(&elf, image) : CUDA_ERROR_INVALID_IMAGE;
}
