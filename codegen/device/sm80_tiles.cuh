// Tiles of rows between memory, shared memory and registers, for the kernels that use mma.sync.

// A matrix in shared memory, in pieces of 16 bytes, with zeros behind its kWidth columns. Pieces of a row change places within their group
// so that ldmatrix reads eight rows of a column of pieces from all banks at once.
template <int kWidth>
struct Matrix {
  static constexpr int kColumns = (kWidth + 15) / 16 * 16, kPieces = kColumns / 8, kPitch = 2 * kColumns;  // pitch in bytes
  static constexpr int kGroup = kPieces % 8 == 0 ? 8 : kPieces % 4 == 0 ? 4 : 2;
  static DEVICE int at(int row, int piece) { return row * kPitch + 16 * (piece ^ row / (8 / kGroup) % kGroup); }
};

DEVICE int pair_of(u32 low, u32 high) {
  return static_cast<int>(low | high << 16);
}

// Rows in memory, of one head.
struct HeadRows {
  const Raw* from;
  i64 stride;
  DEVICE const Raw* at(int row) const { return from + row * stride; }
};

// Rows that may start anywhere. Not inlined: one copy for all that load so.
template <int kWidth, int kRows, int kThreads, typename Rows>
__device__ __noinline__ void load_elements(u32 to, Rows from, int first, int end) {
  using M = Matrix<kWidth>;
#pragma unroll 1
  for (int i = threadIdx.x; i < kRows * M::kPieces; i += kThreads) {
    const int r = i / M::kPieces, piece = i % M::kPieces;
    const Raw* row_from = from.at(min(first + r, end - 1));
    u32 element[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int column = 8 * piece + e;
      element[e] = first + r < end && column < kWidth ? row_from[column] : 0;
    }
    store_shared_x4(to + M::at(r, piece), {pair_of(element[0], element[1]), pair_of(element[2], element[3]),
                                           pair_of(element[4], element[5]), pair_of(element[6], element[7])});
  }
}

// kRows rows from the first on, by all threads; zeros for those from `end` on. By asynchronous copies where rows are aligned.
template <int kWidth, int kRows, int kThreads, typename Rows>
DEVICE void load_rows(bool is_aligned, u32 to, const Rows& from, int first, int end) {
  using M = Matrix<kWidth>;
  constexpr int kStep = kThreads / M::kGroup;  // rows at a time
  const int own_row = threadIdx.x / M::kGroup, own_piece = threadIdx.x % M::kGroup;
  if (is_aligned) {
#pragma unroll 4
    for (int r = 0; r < kRows; r += kStep) {
      if (kRows % kStep != 0 && r + own_row >= kRows) break;
      const int at = first + r + own_row;
      const Raw* row_from = from.at(min(at, end - 1));
#pragma unroll
      for (int piece = own_piece; piece < M::kPieces; piece += M::kGroup) {
        const int columns = kWidth == M::kColumns ? 8 : max(min(kWidth - 8 * piece, 8), 0);
        copy_async_x4(to + M::at(r + own_row, piece), row_from + (columns > 0 ? 8 * piece : 0), at < end ? 2 * columns : 0);
      }
    }
  } else {
    load_elements<kWidth, kRows, kThreads>(to, from, first, end);
  }
}

// Eight elements of a row of kWidth.
template <int kWidth>
DEVICE void store_piece(bool is_aligned, Raw* row_to, int piece, int4 words) {
  const int columns = min(kWidth - 8 * piece, 8);
  if (is_aligned && columns == 8) {
    *reinterpret_cast<int4*>(row_to + 8 * piece) = words;
    return;
  }
  const int word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if (e < columns) row_to[8 * piece + e] = static_cast<Raw>(word[e / 2] >> e % 2 * 16);
  }
}

template <int kTiles>
DEVICE void clear(float (&x)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) x[i][0] = x[i][1] = x[i][2] = x[i][3] = 0.0f;
}
