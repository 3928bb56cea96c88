// Kernels: raw spans of tokens → columns of a batch; blake3 of memory, chunk by chunk.
//
// Compiled by NVRTC for the device. The tests compile the same text as C, thread after thread,
// so nothing here needs threads to meet. Each kernel has a twin in twin.rs.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifdef __CUDACC__
#define KERNEL extern "C" __global__ void
#define INLINE static __device__ __forceinline__
#endif

// Where tokens of a row come from. Pieces follow each other without a gap.
struct Piece {
  u64 source;   // first byte among the raw bytes; all ones: padding
  u32 cell;     // first cell of the batch, laid end to end
  u32 inputs;   // cells
  u32 total;    // tokens at `source`, of which the last may be a label alone; of padding, its id
  u32 joined;   // 1: its first token is the label of the cell before
  u32 width;    // bytes of a token: 1, 2, 4 or 8
  u32 unused;
};

// A document's part of a row, or padding. Segments follow each other without a gap.
struct Segment {
  i64 document;  // -1: padding
  u32 cell;
  u32 tokens;
  u32 goes_on;   // 1: its last cell has a label of the same document
  u32 unused;
};

#define PADDING 0xffffffffffffffffULL
#define IGNORED (-100LL)
// Cells of a block of threads: each looks for its first piece once.
#define TILE 2048u

// Token `at` behind any byte: two aligned words, shifted together. Raw bytes start at a word and
// have a word to spare behind them. Of eight bytes, the low four are the id.
INLINE i64 token(const u8* raw, u64 source, u32 at, u32 width) {
  u64 byte = source + (u64)at * width;
  const u32* words = (const u32*)raw + (byte >> 2);
  u32 shift = (u32)(byte & 3) * 8;
  u32 value = words[0];
  if (shift) value = (value >> shift) | (words[1] << (32 - shift));
  if (width == 2) value &= 0xffffu;
  if (width == 1) value &= 0xffu;
  return (i64)value;
}

// Ids of four or eight bytes; in four, the low ones.
INLINE void put(void* out, u32 wide, u64 cell, i64 value) {
  if (wide) ((i64*)out)[cell] = value;
  else ((u32*)out)[cell] = (u32)value;
}

// Last of `count` that begins at or before `cell`.
INLINE u32 piece_at(const struct Piece* pieces, u32 count, u32 cell) {
  u32 low = 0, high = count;
  while (high - low > 1) {
    u32 middle = low + (high - low) / 2;
    if (pieces[middle].cell <= cell) low = middle;
    else high = middle;
  }
  return low;
}

INLINE u32 segment_at(const struct Segment* segments, u32 count, u32 cell) {
  u32 low = 0, high = count;
  while (high - low > 1) {
    u32 middle = low + (high - low) / 2;
    if (segments[middle].cell <= cell) low = middle;
    else high = middle;
  }
  return low;
}

// input_ids and, unless null, labels. A block of threads makes TILE cells.
KERNEL gather(const u8* raw, const struct Piece* pieces, u32 count, u32 cells, u32 wide, void* ids,
              void* labels) {
  u32 first = blockIdx.x * TILE;
  u32 end = first + TILE < cells ? first + TILE : cells;
  if (first >= cells) return;
  u32 number = piece_at(pieces, count, first);
  for (u32 cell = first + threadIdx.x; cell < end; cell += blockDim.x) {
    while (number + 1 < count && pieces[number + 1].cell <= cell) number++;
    struct Piece piece = pieces[number];
    u32 at = cell - piece.cell;
    i64 id = (i64)piece.total, label = IGNORED;
    if (piece.source != PADDING) {
      id = token(raw, piece.source, at, piece.width);
      if (labels) {
        if (at + 1 < piece.total) {
          label = token(raw, piece.source, at + 1, piece.width);
        } else if (number + 1 < count) {
          struct Piece next = pieces[number + 1];
          if (next.joined && next.cell == cell + 1) label = token(raw, next.source, 0, next.width);
        }
      }
    }
    put(ids, wide, cell, id);
    if (labels) put(labels, wide, cell, label);
  }
}

// The columns that follow from the segments alone; those that are null are left out.
KERNEL describe(const struct Segment* segments, u32 count, u32 cells, u32 wide, void* positions,
                i64* documents, u8* mask, u32* cu_seqlens) {
  u32 first = blockIdx.x * TILE;
  u32 end = first + TILE < cells ? first + TILE : cells;
  if (first >= cells) return;
  u32 number = segment_at(segments, count, first);
  for (u32 cell = first + threadIdx.x; cell < end; cell += blockDim.x) {
    while (number + 1 < count && segments[number + 1].cell <= cell) number++;
    struct Segment segment = segments[number];
    u32 at = cell - segment.cell;
    u32 last = at + 1 == segment.tokens;
    if (positions) put(positions, wide, cell, (i64)at);
    if (documents) documents[cell] = segment.document;
    if (mask) mask[cell] = segment.document >= 0 && (!last || segment.goes_on);
    if (cu_seqlens) {
      if (cell == 0) cu_seqlens[0] = 0;
      if (last) cu_seqlens[number + 1] = cell + 1;
    }
  }
}

// blake3: https://github.com/BLAKE3-team/BLAKE3-specs. A chunk of 1,024 bytes a thread.
#define CHUNK_START 1u
#define CHUNK_END 2u
#define PARENT 4u
#define ROOT 8u

INLINE u32 turn(u32 word, u32 by) { return (word >> by) | (word << (32 - by)); }

#define G(a, b, c, d, x, y) \
  v[a] = v[a] + v[b] + (x); v[d] = turn(v[d] ^ v[a], 16); \
  v[c] = v[c] + v[d];       v[b] = turn(v[b] ^ v[c], 12); \
  v[a] = v[a] + v[b] + (y); v[d] = turn(v[d] ^ v[a], 8);  \
  v[c] = v[c] + v[d];       v[b] = turn(v[b] ^ v[c], 7);

// The order of words in a round is written out, so that they stay in registers.
#define ROUND(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  G(0, 4, 8, 12, w[a], w[b]) G(1, 5, 9, 13, w[c], w[d]) \
  G(2, 6, 10, 14, w[e], w[f]) G(3, 7, 11, 15, w[g], w[h]) \
  G(0, 5, 10, 15, w[i], w[j]) G(1, 6, 11, 12, w[k], w[l]) \
  G(2, 7, 8, 13, w[m], w[n]) G(3, 4, 9, 14, w[o], w[p])

INLINE void compress(u32* value, const u32* w, u64 counter, u32 length, u32 flags) {
  u32 v[16] = {value[0], value[1], value[2], value[3], value[4], value[5], value[6], value[7],
               0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
               (u32)counter, (u32)(counter >> 32), length, flags};
  ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
  ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
  ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1)
  ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6)
  ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4)
  ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7)
  ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)
  for (u32 i = 0; i < 8; i++) value[i] = v[i] ^ v[i + 8];
}

INLINE void start(u32* value) {
  value[0] = 0x6a09e667u; value[1] = 0xbb67ae85u; value[2] = 0x3c6ef372u; value[3] = 0xa54ff53au;
  value[4] = 0x510e527fu; value[5] = 0x9b05688cu; value[6] = 0x1f83d9abu; value[7] = 0x5be0cd19u;
}

// Values of the chunks of `bytes` bytes, which lie at chunk `counter` of their input and start at
// a word. `root`: they are one chunk and all of the input.
KERNEL blake3_chunks(const u8* data, u64 bytes, u64 counter, u32 root, u32* values) {
  u64 chunks = bytes ? (bytes + 1023) / 1024 : 1;
  u64 threads = (u64)gridDim.x * blockDim.x;
  for (u64 chunk = (u64)blockIdx.x * blockDim.x + threadIdx.x; chunk < chunks; chunk += threads) {
    u64 left = bytes - chunk * 1024;
    u32 length = left < 1024 ? (u32)left : 1024u;
    u32 blocks = length ? (length + 63) / 64 : 1;
    u32 value[8];
    start(value);
    for (u32 block = 0; block < blocks; block++) {
      u32 here = length - block * 64 < 64 ? length - block * 64 : 64u;
      const u8* from = data + chunk * 1024 + block * 64;
      u32 w[16];
      if (here == 64) {
        for (u32 i = 0; i < 16; i++) w[i] = ((const u32*)from)[i];
      } else {
        for (u32 i = 0; i < 16; i++) {
          w[i] = 0;
          for (u32 k = 0; k < 4; k++) {
            if (i * 4 + k < here) w[i] |= (u32)from[i * 4 + k] << (8 * k);
          }
        }
      }
      u32 flags = (block == 0 ? CHUNK_START : 0u);
      if (block + 1 == blocks) flags |= CHUNK_END | (root ? ROOT : 0u);
      compress(value, w, counter + chunk, here, flags);
    }
    for (u32 i = 0; i < 8; i++) values[chunk * 8 + i] = value[i];
  }
}

// A level of the tree: pairs become one, a last one without a partner goes up as it is.
// `root`: the two are the whole input.
KERNEL blake3_parents(const u32* below, u64 count, u32 root, u32* above) {
  u64 pairs = (count + 1) / 2;
  u64 threads = (u64)gridDim.x * blockDim.x;
  for (u64 pair = (u64)blockIdx.x * blockDim.x + threadIdx.x; pair < pairs; pair += threads) {
    const u32* from = below + pair * 16;
    u32 value[8];
    if (pair * 2 + 1 < count) {
      u32 w[16];
      for (u32 i = 0; i < 16; i++) w[i] = from[i];
      start(value);
      compress(value, w, 0, 64, PARENT | (root ? ROOT : 0u));
    } else {
      for (u32 i = 0; i < 8; i++) value[i] = from[i];
    }
    for (u32 i = 0; i < 8; i++) above[pair * 8 + i] = value[i];
  }
}
