/* Decode and resize the part of a JPEG that one view needs.
 *
 * Only undamaged images are decoded: where libjpeg stops or warns, the result is 0, and the caller
 * uses Pillow, which decides whether it is an error. Nothing is linked: `jpeg_bind` receives
 * pointers to the functions of Pillow's own libjpeg, and to `resize_box`.
 */
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- The interface of libjpeg 6b, which libjpeg-turbo keeps. It compares version and size. ---- */

#define ABI_VERSION 62
enum { GRAY = 1, RGB = 2, YCC = 3 };

typedef struct Decoder Decoder;

typedef struct {
  void (*error_exit)(Decoder *);
  void (*emit_message)(Decoder *, int level);
  void *functions[3];
  int msg_code;
  union {
    int i[8];
    char s[80];
  } msg_parm;
  int trace_level;
  long num_warnings;
  const void *message_table;
  int last_message;
  const void *addon_table;
  int first_addon, last_addon;
} Errors;

typedef struct {
  const uint8_t *next;
  size_t left;
  void *functions[5];
} Source;

struct Decoder {
  Errors *err;
  void *mem, *progress, *client_data;
  int is_decompressor, global_state;
  Source *src;
  unsigned image_width, image_height;
  int num_components, jpeg_color_space, out_color_space;
  unsigned scale_num, scale_denom;
  double output_gamma;
  int buffered_image, raw_data_out, dct_method, fancy_upsampling, block_smoothing;
  int quantize[7]; /* color maps */
  unsigned output_width, output_height;
  int out_color_components, output_components, rec_outbuf_height, actual_number_of_colors;
  void *colormap;
  unsigned output_scanline;
  int input_scan_number;
  unsigned input_iMCU_row;
  int output_scan_number;
  unsigned output_iMCU_row;
  void *coef_bits, *quant_tbl[4], *dc_huff_tbl[4], *ac_huff_tbl[4];
  int data_precision;
  void *comp_info;
  int progressive_mode, arith_code;
  uint8_t arith[3][16];
  unsigned restart_interval;
  int saw_JFIF_marker;
  uint8_t JFIF_major_version, JFIF_minor_version, density_unit;
  uint16_t X_density, Y_density;
  int saw_Adobe_marker;
  uint8_t Adobe_transform;
  int CCIR601_sampling;
  void *marker_list;
  int max_h_samp_factor, max_v_samp_factor, min_DCT_scaled_size;
  unsigned total_iMCU_rows;
  void *sample_range_limit;
  int comps_in_scan;
  void *cur_comp_info[4];
  unsigned MCUs_per_row, MCU_rows_in_scan;
  int blocks_in_MCU, MCU_membership[10], Ss, Se, Ah, Al;
  int unread_marker;
  void *modules[11];
};

typedef struct { /* in the order of `jpeg_bind`'s argument */
  Errors *(*std_error)(Errors *);
  void (*create)(Decoder *, int version, size_t size);
  void (*mem_src)(Decoder *, const uint8_t *, unsigned long);
  int (*read_header)(Decoder *, int require_image);
  int (*start)(Decoder *);
  void (*crop)(Decoder *, unsigned *offset, unsigned *width);
  unsigned (*skip)(Decoder *, unsigned lines);
  unsigned (*read)(Decoder *, uint8_t **rows, unsigned lines);
  int (*has_multiple_scans)(Decoder *);
  void (*destroy)(Decoder *);
  int (*resize)(const uint8_t *, int64_t, int, int, int, const double *, int, uint8_t *, int, int);
} Functions;

static Functions call;

typedef struct {
  Errors base;
  jmp_buf escape;
} ErrorHandler;

static void on_error(Decoder *decoder) { longjmp(((ErrorHandler *)decoder->err)->escape, 1); }

static void on_message(Decoder *decoder, int level) {
  if (level < 0) on_error(decoder); /* a warning: damaged data, or a made-up end of file */
}

static void prepare(Decoder *decoder, ErrorHandler *handler) {
  memset(decoder, 0, sizeof *decoder);
  decoder->err = call.std_error(&handler->base);
  handler->base.error_exit = on_error;
  handler->base.emit_message = on_message;
}

/* Store the functions. Returns 0, and changes nothing, if this libjpeg has another layout. */
int jpeg_bind(void *const *functions) {
  const Functions before = call;
  Decoder decoder;
  ErrorHandler handler;
  memcpy(&call, functions, sizeof call);
  prepare(&decoder, &handler);
  if (setjmp(handler.escape)) {
    call = before;
    return 0;
  }
  call.create(&decoder, ABI_VERSION, sizeof decoder);
  call.destroy(&decoder);
  return 1;
}

/* ---- Header ---- */

static int word(const uint8_t *at) { return at[0] << 8 | at[1]; }

/* header: width, height, channels (1 or 3), offset and size of the EXIF data (0: none). 0 if
 * this is not a JPEG, or one for Pillow: CMYK, 12 bits, lossless, arithmetic coding. */
int jpeg_header(const uint8_t *data, int64_t size, int64_t *header) {
  if (size < 4 || data[0] != 0xFF || data[1] != 0xD8) return 0;
  header[3] = header[4] = 0;
  for (int64_t at = 2; at + 10 <= size;) {
    const int marker = data[at + 1];
    if (data[at] != 0xFF) return 0;
    if (marker == 0xFF) {
      at++; /* a fill byte */
      continue;
    }
    const int length = word(data + at + 2);
    if (marker >= 0xC0 && marker <= 0xC2) {
      header[0] = word(data + at + 7), header[1] = word(data + at + 5), header[2] = data[at + 9];
      return data[at + 4] == 8 && header[0] && header[1] && (header[2] == 1 || header[2] == 3);
    }
    const int tables = marker == 0xC4 || marker == 0xDB || marker == 0xDD;
    if (length < 2 || !(tables || marker >= 0xE0)) return 0;
    if (marker == 0xE1 && !header[4] && length >= 8 && !memcmp(data + at + 4, "Exif\0", 6)) {
      header[3] = at + 4, header[4] = length - 2;
    }
    at += 2 + length;
  }
  return 0;
}

/* ---- Pixels ---- */

typedef struct {
  unsigned left, top, right, bottom;
} Region;

/* The pixels that the resize of `box` reads, and two more: upsampled color needs a neighbor. */
static Region source_region(const double *box, int cubic, unsigned width, unsigned height,
                            int out_width, int out_height) {
  double x = (box[2] - box[0]) / out_width, y = (box[3] - box[1]) / out_height;
  x = (cubic ? 2 : 1) * (x > 1 ? x : 1) + 3, y = (cubic ? 2 : 1) * (y > 1 ? y : 1) + 3;
  return (Region){box[0] > x ? (unsigned)(box[0] - x) : 0, box[1] > y ? (unsigned)(box[1] - y) : 0,
                  box[2] + x < width ? (unsigned)(box[2] + x) : width,
                  box[3] + y < height ? (unsigned)(box[3] + y) : height};
}

/* Whether an end-of-image marker follows the scan that is being read. */
static int reaches_end(const Decoder *decoder) {
  const uint8_t *at = decoder->src->next, *end = at + decoder->src->left;
  if (decoder->unread_marker) return decoder->unread_marker == 0xD9;
  while (at < end && (at = memchr(at, 0xFF, end - at))) {
    while (at < end && *at == 0xFF) at++;
    if (at < end && *at && (*at < 0xD0 || *at > 0xD7)) return *at == 0xD9;
  }
  return 0;
}

/* Whether a JPEG of several scans, of which the first is about to be read, has at most `max_scans`.
 * Each scan visits all blocks, so a small file could keep a thread busy for minutes. */
static int has_few_scans(const Decoder *decoder, int max_scans) {
  const uint8_t *at = decoder->src->next, *end = at + decoder->src->left;
  int scans = 1;
  while (at < end && (at = memchr(at, 0xFF, end - at))) {
    while (at < end && *at == 0xFF) at++;
    if (at == end || *at == 0xD9) break;
    const int marker = *at++;
    if (!marker || (marker >= 0xD0 && marker <= 0xD8) || marker == 1) continue;
    if (marker == 0xDA && ++scans > max_scans) return 0;
    if (end - at < 2 || end - at < word(at)) break;
    at += word(at);
  }
  return scans <= max_scans;
}

/* Decode `region`, in pixels of the scaled image; it is widened to whole blocks. The caller frees
 * `*pixels`, whatever is returned. */
static int decode(Decoder *decoder, ErrorHandler *handler, Region *region, int channels,
                  uint8_t **pixels) {
  if (setjmp(handler->escape)) return 0;
  decoder->out_color_space = channels == 1 ? GRAY : RGB;
  call.start(decoder);
  unsigned width = region->right - region->left, height = region->bottom - region->top;
  if (width < decoder->output_width) call.crop(decoder, &region->left, &width);
  region->right = region->left + width;
  const size_t pitch = (size_t)width * channels;
  if (!(*pixels = malloc(pitch * height))) return 0;
  if (region->top) call.skip(decoder, region->top);
  for (unsigned row = 0; row < height;) {
    uint8_t *rows[4];
    unsigned count = 0;
    for (; count < 4 && row + count < height; count++) rows[count] = *pixels + pitch * (row + count);
    count = call.read(decoder, rows, count);
    if (!count) return 0;
    row += count;
  }
  return call.has_multiple_scans(decoder) || reaches_end(decoder);
}

static int open_jpeg(Decoder *decoder, ErrorHandler *handler, const uint8_t *data, int64_t size,
                     int denominator, int max_scans) {
  prepare(decoder, handler);
  if (setjmp(handler->escape)) return 0;
  call.create(decoder, ABI_VERSION, sizeof *decoder);
  call.mem_src(decoder, data, size);
  call.read_header(decoder, 1);
  decoder->scale_num = 1, decoder->scale_denom = denominator;
  const int space = decoder->jpeg_color_space;
  if (call.has_multiple_scans(decoder) && !has_few_scans(decoder, max_scans)) return 0;
  return decoder->data_precision == 8 && (space == GRAY || space == RGB || space == YCC);
}

/* Copy the part `box` of `pixels` if it is whole pixels that keep their size, else return 0. */
static int copy_box(const uint8_t *pixels, size_t pitch, int channels, const double *box,
                    uint8_t *out, int out_width, int out_height) {
  const size_t left = (size_t)box[0], top = (size_t)box[1], width = (size_t)out_width * channels;
  if ((double)left != box[0] || (double)top != box[1] || box[2] - box[0] != out_width ||
      box[3] - box[1] != out_height)
    return 0;
  for (int row = 0; row < out_height; row++) {
    memcpy(out + row * width, pixels + (top + row) * pitch + left * channels, width);
  }
  return 1;
}

/* The part `box` (left, top, right, bottom in pixels as stored) of a JPEG of `width` x `height`,
 * as `out` (out_height, out_width, channels), read at 1 / `denominator` of its size. Returns 1,
 * or 0 if Pillow has to do it, as for more than `max_scans` scans. */
int jpeg_view(const uint8_t *data, int64_t size, int width, int height, const double *box,
              int denominator, int channels, int cubic, uint8_t *out, int out_width, int out_height,
              int max_scans) {
  Decoder decoder;
  ErrorHandler handler;
  uint8_t *pixels = NULL;
  double part[4];
  /* Written so that a box with a NaN is refused, too. */
  if (!(box[0] >= 0 && box[1] >= 0 && box[2] > box[0] && box[3] > box[1] && box[2] <= width &&
        box[3] <= height))
    return 0;
  for (int i = 0; i < 4; i++) part[i] = box[i] / denominator;
  const unsigned wide = (width + denominator - 1) / denominator,
                 high = (height + denominator - 1) / denominator;
  int done = open_jpeg(&decoder, &handler, data, size, denominator, max_scans) &&
             decoder.image_width == (unsigned)width && decoder.image_height == (unsigned)height;
  if (done) {
    Region region = source_region(part, cubic, wide, high, out_width, out_height);
    done = decode(&decoder, &handler, &region, channels, &pixels);
    const int region_width = region.right - region.left;
    const int region_height = region.bottom - region.top;
    part[0] -= region.left, part[2] -= region.left, part[1] -= region.top, part[3] -= region.top;
    const size_t pitch = (size_t)region_width * channels;
    done = done && (copy_box(pixels, pitch, channels, part, out, out_width, out_height) ||
                    call.resize(pixels, pitch, region_width, region_height, channels, part, cubic,
                                out, out_width, out_height));
  }
  if (!setjmp(handler.escape)) call.destroy(&decoder);
  free(pixels);
  return done;
}
