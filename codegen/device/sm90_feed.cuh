// What feeder warps bring into shared memory, and how the threads that they feed read it: tensors that the program reads by pair, in tiles of
// the 64 rows of a warpgroup, values by key, and small tables.

// A tile of a tensor: boxes of 128 bytes a row, as the copy engine swizzles them; zeros beyond the tensor.
template <int kElementBytes, int kBlockN>
struct PairTile {
  static constexpr int kColumns = 128 / kElementBytes, kBoxes = (kBlockN + kColumns - 1) / kColumns;

  static DEVICE void load(u32 to, const TensorMap* map, u32 barrier, int k, int q, int c2, int c3) {
    for (int box = 0; box < kBoxes; ++box) tma_load_4d(to + box * 64 * 128, map, barrier, k + box * kColumns, q, c2, c3);
  }
};

// Where a thread finds its own of a stage, beginning with its first row and its first two columns.
struct FedPlace {
  u32 halves, words;  // in a tile of elements of 16 and of 32 bits
  u32 columns;        // among the words of a value by key
  u32 tables;

  // `base` is 1024-aligned; values by key and tables lie `columns_at` and `tables_at` bytes from there.
  static DEVICE FedPlace of(u32 base, int columns_at, int tables_at, int warp, int lane) {
    const int row = lane / 4, pair = lane % 4, of_row = (warp * 16 + row) * 128;
    return {base + (of_row + (row << 4) + pair * 4), base + (of_row + ((pair / 2 ^ row) << 4) + pair % 2 * 8), base + (columns_at + pair * 8),
            base + tables_at};
  }
};

DEVICE float read_table(u32 from, i64 index) {
  return __int_as_float(static_cast<int>(read_shared(from + 4 * static_cast<u32>(index))));
}
DEVICE int read_table_i32(u32 from, i64 index) {
  return static_cast<int>(read_shared(from + 4 * static_cast<u32>(index)));
}

// Two neighbours, in columns 8 * group and on from the first; `place` 0 and 1 are rows r and r + 8. `offset`: of the tile.
template <typename Element>
DEVICE float2 read_pair(const FedPlace& from, int offset, int group, int place) {
  return Element::unpack(read_shared((from.halves ^ (group % 8 << 4)) + offset + group / 8 * (64 * 128) + place * (8 * 128)));
}
template <>
DEVICE float2 read_pair<float>(const FedPlace& from, int offset, int group, int place) {
  const int2 bits = read_shared_x2((from.words ^ (group % 4 << 5)) + offset + group / 4 * (64 * 128) + place * (8 * 128));
  return {__int_as_float(bits.x), __int_as_float(bits.y)};
}
