// What the copy engine brings of tensors by pair (sm90_feed.cuh), with queries along a thread's columns: where it finds its own of the first 8
// queries of a tile, for the keys r and r + 8 of its warp.
struct FedQueries {
  u32 halves;    // matrices of 8 x 8: a lane has the address of a row
  u32 words[2];  // of its first and its second query

  // `keys`: which 64 of the tile's.
  static DEVICE FedQueries of(u32 base, int keys, int warp, int lane) {
    const int row = lane % 8, query = lane % 4 * 2, chunk = warp % 2 * 4 + lane / 16;
    FedQueries place;
    place.halves = base + keys * (64 * 128) + row * 128 + (((warp * 2 + lane / 8 % 2) ^ row) << 4);
#pragma unroll
    for (int second = 0; second < 2; ++second)
      place.words[second] = base + (keys * 2 + warp / 2) * (64 * 128) + (query + second) * 128 + ((chunk ^ (query + second)) << 4) + lane / 4 % 4 * 4;
    return place;
  }
};

// Of the queries 2 (lane % 4) and one more, 8 * group on: x and y with the key r, z and w with r + 8.
template <typename Element>
DEVICE float4 read_queries(const FedQueries& from, int offset, int group) {
  const int2 words = load_matrix_transposed_x2(from.halves + offset + group * (8 * 128));
  const float2 first = Element::unpack(words.x), second = Element::unpack(words.y);
  return {first.x, first.y, second.x, second.y};
}
template <>
DEVICE float4 read_queries<float>(const FedQueries& from, int offset, int group) {
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    values[i] = __int_as_float(load_shared((from.words[i % 2] ^ (i / 2 << 5)) + offset + group * (8 * 128)));
  return {values[0], values[1], values[2], values[3]};
}

// What functions of pairs get of a thread's pairs of eight queries: its Columns, or Pairs with what was brought.
template <typename Variant, bool kFed>
struct PairsOf {
  using Column = typename Variant::Column;
  const Column (&columns)[2];

  DEVICE PairsOf(u32, int, int, int, const Column (&own)[2]) : columns(own) {}
  DEVICE void read(int) {}
  DEVICE const Column& column(int, int place) const { return columns[place]; }
};
template <typename Variant>
struct PairsOf<Variant, true> {
  using Column = typename Variant::Pair;
  const FedQueries from;
  Column pairs[2][2];  // query, key

  DEVICE PairsOf(u32 base, int keys, int warp, int lane, const typename Variant::Column (&columns)[2])
      : from(FedQueries::of(base, keys, warp, lane)) {
#pragma unroll
    for (int i = 0; i < 4; ++i) static_cast<typename Variant::Column&>(pairs[i / 2][i % 2]) = columns[i % 2];
  }
  // Tiles have 64 queries.
  DEVICE void read(int group) {
    FedQueries place = from;
    place.halves += group / 8 * Variant::kPairBytes;
    place.words[0] += group / 8 * Variant::kPairBytes;
    place.words[1] += group / 8 * Variant::kPairBytes;
    Variant::read_pairs(place, group % 8, pairs);
  }
  DEVICE const Column& column(int query, int key) const { return pairs[query][key]; }
};
