// Finds races in shared memory while kernels run on the host: two accesses of one place, one of them a write, that nothing orders. What is
// ordered is told by vector clocks (Mattern 1989, as used by FastTrack, Flanagan and Freund 2009): barriers hand on what a thread knows,
// shuffles and votes do not. Copies and the products of tensor cores are parties of their own: a thread knows of their end by a barrier or
// by waiting for it, and they see what threads have written behind a fence alone (fence.proxy.async).
#pragma once

#include <algorithm>
#include <cstdio>
#include <source_location>
#include <vector>

namespace host {

using Site = std::source_location;
[[noreturn]] inline void fail(const char* what);

#pragma GCC push_options
#pragma GCC optimize("O3")
inline void join(std::vector<unsigned>& to, const std::vector<unsigned>& from) {
  if (to.size() < from.size()) to.resize(from.size());
  unsigned* const a = to.data();
  const unsigned* const b = from.data();
  for (size_t i = 0, count = from.size(); i < count; ++i) a[i] = a[i] < b[i] ? b[i] : a[i];
}
#pragma GCC pop_options

// What somebody knows of each party: how far it has come. fenced: so that copies and products see it, too.
struct Knowledge {
  std::vector<unsigned> seen, fenced;
};
inline void join(Knowledge& to, const Knowledge& from) {
  join(to.seen, from.seen);
  join(to.fenced, from.fenced);
}

// A barrier: what has arrived, and what the phase before has left for those who wait.
struct Meeting {
  Knowledge arrived, over;
  void finish() {
    over = std::move(arrived);
    arrived = {};
  }
};

class Races {
 public:
  enum Kind : unsigned { kThread, kCopiesOfThread, kProductsOfWarp, kStoresOfWarp, kCopiesAtBarrier, kKinds };
  static constexpr unsigned kBarriers = 256;  // places that may have one; more than there are side by side
  struct Party {
    Kind kind;
    unsigned number;
  };

  void start(unsigned threads) {
    const unsigned counts[] = {threads, threads, threads / 32, threads / 32, kBarriers};
    unsigned end = 0;
    for (unsigned kind = 0; kind < kKinds; ++kind) {
      first_[kind] = end;
      end += counts[kind];
    }
    ends_.assign(end, 0);
    known_.assign(threads, {ends_, ends_});
    for (unsigned i = 0; i < threads; ++i) known_[i].seen[i] = 1;
    cells_.resize((256u << 10) / kGrain);
    for (const unsigned place : used_) cells_[place] = {};
    used_.clear();
  }

  Knowledge& of(unsigned thread) { return known_[thread]; }
  void arrive(unsigned thread, Meeting& meeting) {
    join(meeting.arrived, known_[thread]);
    ++known_[thread].seen[thread];
  }
  void leave(unsigned thread, const Meeting& meeting) { join(known_[thread], meeting.over); }
  void fence(unsigned thread) { join(known_[thread].fenced, known_[thread].seen); }

  // A party that is no thread begins something, the number of which is returned; and all up to one of them are known to be over.
  unsigned begin(Party party) { return ++ends_[index(party)]; }
  void see(Knowledge& known, Party party, unsigned end) {
    known.seen.resize(ends_.size());
    unsigned& seen = known.seen[index(party)];
    seen = std::max(seen, end);
  }

  void read(unsigned thread, unsigned at, unsigned bytes, const Site& site) {
    read({kThread, thread}, known_[thread].seen[thread], known_[thread], at, bytes, site);
  }
  void write(unsigned thread, unsigned at, unsigned bytes, const Site& site) {
    write({kThread, thread}, known_[thread].seen[thread], known_[thread], at, bytes, site);
  }
  void read(Party party, unsigned when, const Knowledge& known, unsigned at, unsigned bytes, const Site& site) {
    const Access access = {index(party), when, site};
    for (unsigned place = at / kGrain; place < (at + bytes) / kGrain; ++place) {
      Cell& cell = cell_at(place);
      check(cell.write, true, access, false, known, place);
      std::erase_if(cell.reads, [&](const Access& before) { return is_known(before, known); });
      cell.reads.push_back(access);
    }
  }
  void write(Party party, unsigned when, const Knowledge& known, unsigned at, unsigned bytes, const Site& site) {
    const Access access = {index(party), when, site};
    for (unsigned place = at / kGrain; place < (at + bytes) / kGrain; ++place) {
      Cell& cell = cell_at(place);
      check(cell.write, true, access, true, known, place);
      for (const Access& before : cell.reads) check(before, false, access, true, known, place);
      cell.reads.clear();
      cell.write = access;
    }
  }

 private:
  static constexpr unsigned kGrain = 2;  // bytes
  struct Access {
    unsigned party, when = 0;  // 0: nobody
    Site site;
  };
  struct Cell {
    Access write;
    std::vector<Access> reads;
  };

  Cell& cell_at(unsigned place) {
    Cell& cell = cells_.at(place);
    if (cell.write.when == 0 && cell.reads.empty()) used_.push_back(place);
    return cell;
  }
  unsigned index(Party party) const { return first_[party.kind] + party.number; }
  Party party_of(unsigned index) const {
    unsigned kind = kKinds - 1;
    while (index < first_[kind]) --kind;
    return {static_cast<Kind>(kind), index - first_[kind]};
  }
  static bool is_known(const Access& access, const Knowledge& known) { return known.seen[access.party] >= access.when; }

  void check(const Access& before, bool has_written, const Access& now, bool writes, const Knowledge& known, unsigned place) const {
    if (before.when == 0) return;
    const bool needs_fence = has_written && now.party >= first_[kProductsOfWarp] && before.party < first_[kProductsOfWarp];
    const bool is_ordered = is_known(before, known);
    if (is_ordered && (!needs_fence || known.fenced[before.party] >= before.when)) return;
    static constexpr const char* kNames[] = {"thread", "the copies of thread", "the products of warp", "the bulk stores of warp",
                                             "the copies at barrier"};
    const Party one = party_of(now.party), other = party_of(before.party);
    char text[300];
    std::snprintf(text, sizeof(text), "%s, %s, at %u of shared memory: %s %u %s (line %u) what %s %u has %s (line %u)",
                  now.site.file_name(), is_ordered ? "no fence of proxies" : "a race", place * kGrain, kNames[one.kind], one.number,
                  writes ? "writes" : "reads", now.site.line(), kNames[other.kind], other.number, has_written ? "written" : "read",
                  before.site.line());
    fail(text);
  }

  unsigned first_[kKinds] = {};
  std::vector<unsigned> ends_;
  std::vector<Knowledge> known_;
  std::vector<Cell> cells_;
  std::vector<unsigned> used_;  // cells that are not as they were at the start
};
inline Races races;

}  // namespace host
