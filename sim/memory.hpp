// The memory model in native code. sim/memory.py specifies it and holds its twin for Amaranth's simulator:
// the two agree in every cycle, and the names of Channel and Fault are taken from there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace systolith {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ports are copied byte for byte");

enum Channel : uint32_t { READ_ADDRESS, READ_DATA, WRITE_ADDRESS, WRITE_DATA, WRITE_RESPONSE, CONTROL };

enum Fault : uint32_t {
    NO_FAULT,
    VALID_DROPPED,
    PAYLOAD_CHANGED,
    NOT_INCR,
    WRONG_SIZE,
    CROSSES_4096,
    WRONG_LAST,
    STRAY_STROBE,
    UNFINISHED,
    REFUSED,
};

struct Violation {
    uint32_t channel;
    uint32_t fault;
    uint64_t cycle;
};

struct Timing {
    uint64_t seed;
    uint32_t latency;
    uint32_t interval;
    uint32_t stall_percent;  // 0: no draws at all
};

// A queue that grows and never shrinks: after the first bursts nothing is allocated any more.
template <typename T> class Ring {
  public:
    bool empty() const { return head_ == tail_; }
    uint64_t size() const { return tail_ - head_; }
    T& front() { return items_[head_ & mask_]; }
    void pop() { ++head_; }
    void clear() { head_ = tail_ = 0; }
    T& push() {
        if (tail_ - head_ > mask_) grow();
        return items_[tail_++ & mask_];
    }

  private:
    void grow() {
        std::vector<T> bigger(2 * items_.size());
        const uint64_t count = size();
        for (uint64_t i = 0; i < count; ++i) bigger[i] = items_[(head_ + i) & mask_];
        items_.swap(bigger);
        mask_ = items_.size() - 1;
        head_ = 0;
        tail_ = count;
    }

    std::vector<T> items_ = std::vector<T>(64);
    uint64_t mask_ = 63, head_ = 0, tail_ = 0;
};

// The engine's side of an address channel: what was offered and not accepted must be offered again, unchanged.
struct Address {
    uint32_t address;
    uint8_t length, size, burst;

    bool operator!=(const Address& other) const {
        return address != other.address || length != other.length || size != other.size || burst != other.burst;
    }
};

// `BYTES` is the width of a beat. `Ports` of drive() and step() is anything with the engine's m_axi_* members.
template <unsigned BYTES> class Memory {
  public:
    void start(uint8_t* bytes, uint64_t size, uint64_t base, const Timing& timing) {
        bytes_ = bytes;
        size_ = size;
        base_ = base;
        timing_ = timing;
        random_ = timing.seed;
        stall_below_ = timing.stall_percent * 4096;
        cycle_ = next_read_ = next_write_ = 0;
        arready_ = awready_ = wready_ = rvalid_ = bvalid_ = false;
        held_ar_ = held_aw_ = held_w_ = false;
        violation_ = {};
        reads_.clear();
        addresses_.clear();
        data_.clear();
        writes_.clear();
        responses_.clear();
        beat_ = stored_ = 0;
        failed_ = false;
    }

    uint64_t cycle() const { return cycle_; }
    const Violation& violation() const { return violation_; }

    // Refuses an engine that says it is done while it still owes or is owed something.
    void check_idle() {
        if (!reads_.empty()) violate(READ_DATA, UNFINISHED);
        if (held_ar_) violate(READ_ADDRESS, UNFINISHED);
        if (!addresses_.empty() || !responses_.empty() || held_aw_) violate(WRITE_RESPONSE, UNFINISHED);
        if (!data_.empty() || held_w_) violate(WRITE_DATA, UNFINISHED);
    }

    // Begins a cycle: sets the memory's outputs.
    template <typename Ports> void drive(Ports& ports) {
        uint64_t draw = ~uint64_t{0};
        if (stall_below_) draw = next_random();
        const auto stalled = [&](unsigned channel) { return (draw >> (12 * channel) & 4095) * 100 < stall_below_; };
        arready_ = !stalled(0);
        awready_ = !stalled(2);
        wready_ = cycle_ >= next_write_ && !stalled(3);
        if (!rvalid_) rvalid_ = !reads_.empty() && reads_.front().ready <= cycle_ && !stalled(1);
        if (!bvalid_ && !responses_.empty() && responses_.front().ready <= cycle_ && !stalled(4)) {
            bvalid_ = true;
            commit();
        }
        ports.m_axi_arready = arready_;
        ports.m_axi_awready = awready_;
        ports.m_axi_wready = wready_;
        ports.m_axi_rvalid = rvalid_;
        if (rvalid_) {
            const ReadBeat& beat = reads_.front();
            std::memcpy(&ports.m_axi_rdata, beat.data, BYTES);
            ports.m_axi_rresp = beat.failed ? 2 : 0;
            ports.m_axi_rlast = beat.last;
        } else {
            std::memset(&ports.m_axi_rdata, 0xFF, BYTES);
            ports.m_axi_rresp = 3;
            ports.m_axi_rlast = 1;
        }
        ports.m_axi_bvalid = bvalid_;
        ports.m_axi_bresp = !bvalid_ ? 3 : responses_.front().failed ? 2 : 0;
    }

    // Ends a cycle: takes what the engine drove in it. Returns whether anything was transferred.
    template <typename Ports> bool step(const Ports& ports) {
        bool moved = false;
        if (rvalid_ && ports.m_axi_rready) {
            reads_.pop();
            rvalid_ = false;
            moved = true;
        }
        if (bvalid_ && ports.m_axi_bready) {
            responses_.pop();
            bvalid_ = false;
            moved = true;
        }
        if (ports.m_axi_arvalid || held_ar_) {
            const Address now{ports.m_axi_araddr, ports.m_axi_arlen, ports.m_axi_arsize, ports.m_axi_arburst};
            if (offer(READ_ADDRESS, ports.m_axi_arvalid, arready_, now, held_ar_, last_ar_)) {
                read(now);
                moved = true;
            }
        }
        if (ports.m_axi_awvalid || held_aw_) {
            const Address now{ports.m_axi_awaddr, ports.m_axi_awlen, ports.m_axi_awsize, ports.m_axi_awburst};
            if (offer(WRITE_ADDRESS, ports.m_axi_awvalid, awready_, now, held_aw_, last_aw_)) {
                addresses_.push() = now;
                moved = true;
            }
        }
        if (ports.m_axi_wvalid || held_w_) {
            WriteData now;
            now.strobe = ports.m_axi_wstrb;
            now.last = ports.m_axi_wlast;
            std::memcpy(now.data, &ports.m_axi_wdata, BYTES);
            if (offer(WRITE_DATA, ports.m_axi_wvalid, wready_, now, held_w_, last_w_)) {
                data_.push() = now;
                next_write_ = cycle_ + timing_.interval;
                moved = true;
            }
        }
        while (!addresses_.empty() && !data_.empty()) write();
        ++cycle_;
        return moved;
    }

  private:
    struct ReadBeat {
        uint64_t ready;
        bool last, failed;
        uint8_t data[BYTES];
    };
    struct WriteData {
        uint64_t strobe;
        uint8_t last;
        uint8_t data[BYTES];

        bool operator!=(const WriteData& other) const {
            return strobe != other.strobe || last != other.last || std::memcmp(data, other.data, BYTES) != 0;
        }
    };
    struct Write {
        uint64_t offset, strobe;
        uint8_t data[BYTES];
    };
    struct Response {
        uint64_t ready;
        uint32_t beats;
        bool failed;
    };

    void violate(Channel channel, Fault fault) {
        if (violation_.fault == NO_FAULT) violation_ = {channel, fault, cycle_};
    }

    uint64_t next_random() {
        random_ += 0x9E3779B97F4A7C15;
        uint64_t z = random_;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }

    // Checks one offer on a channel against what is still open on it; returns whether it is accepted.
    template <typename T> bool offer(Channel channel, bool valid, bool ready, const T& now, bool& held, T& last) {
        if (held && !valid) {
            violate(channel, VALID_DROPPED);
            held = false;
            return false;
        }
        if (held && now != last) violate(channel, PAYLOAD_CHANGED);
        held = !ready;
        if (held) last = now;
        return ready;
    }

    void check(Channel channel, const Address& burst) {
        if (burst.burst != 1) violate(channel, NOT_INCR);
        if (1u << burst.size != BYTES) violate(channel, WRONG_SIZE);
        if ((burst.address & 4095 & ~(BYTES - 1)) + (burst.length + 1) * BYTES > 4096) violate(channel, CROSSES_4096);
    }

    // Offset of a beat in the memory, or size_ and beyond when it lies outside.
    uint64_t locate(const Address& burst, uint32_t beat) const {
        const uint64_t address = (burst.address & ~uint64_t{BYTES - 1}) + uint64_t{beat} * BYTES;
        return address - base_;  // below the base it wraps to a huge number
    }

    bool inside(uint64_t offset) const { return offset < size_ && size_ - offset >= BYTES; }

    void read(const Address& burst) {
        check(READ_ADDRESS, burst);
        for (uint32_t beat = 0; beat <= burst.length; ++beat) {
            const uint64_t earliest = cycle_ + timing_.latency;
            const uint64_t ready = next_read_ > earliest ? next_read_ : earliest;
            next_read_ = ready + timing_.interval;
            const uint64_t offset = locate(burst, beat);
            ReadBeat& slot = reads_.push();
            slot.ready = ready;
            slot.last = beat == burst.length;
            slot.failed = !inside(offset);
            if (slot.failed)
                std::memset(slot.data, 0xFF, BYTES);
            else
                std::memcpy(slot.data, bytes_ + offset, BYTES);
        }
    }

    // Joins the oldest data beat to the oldest burst.
    void write() {
        const Address& burst = addresses_.front();
        const WriteData& data = data_.front();
        if (beat_ == 0) {
            check(WRITE_ADDRESS, burst);
            if (data.strobe & ((uint64_t{1} << (burst.address & (BYTES - 1))) - 1)) violate(WRITE_DATA, STRAY_STROBE);
        }
        const bool last = beat_ == burst.length;
        if (data.last != last) violate(WRITE_DATA, WRONG_LAST);
        const uint64_t offset = locate(burst, beat_);
        if (inside(offset)) {
            Write& pending = writes_.push();
            pending.offset = offset;
            pending.strobe = data.strobe;
            std::memcpy(pending.data, data.data, BYTES);
            ++stored_;
        } else {
            failed_ = true;
        }
        data_.pop();
        ++beat_;
        if (last) {
            responses_.push() = {cycle_ + timing_.latency, stored_, failed_};
            addresses_.pop();
            beat_ = stored_ = 0;
            failed_ = false;
        }
    }

    // Lets the writes of the oldest response take effect.
    void commit() {
        for (uint32_t beats = responses_.front().beats; beats; --beats) {
            const Write& write = writes_.front();
            uint8_t* const target = bytes_ + write.offset;
            if (write.strobe == ~uint64_t{0} >> (64 - BYTES))
                std::memcpy(target, write.data, BYTES);
            else
                for (unsigned i = 0; i < BYTES; ++i)
                    if (write.strobe >> i & 1) target[i] = write.data[i];
            writes_.pop();
        }
    }

    uint8_t* bytes_ = nullptr;
    uint64_t size_ = 0, base_ = 0;
    Timing timing_{};
    uint64_t random_ = 0, stall_below_ = 0;
    uint64_t cycle_ = 0, next_read_ = 0, next_write_ = 0;
    bool arready_ = false, awready_ = false, wready_ = false, rvalid_ = false, bvalid_ = false;
    bool held_ar_ = false, held_aw_ = false, held_w_ = false;
    Address last_ar_{}, last_aw_{};
    WriteData last_w_{};
    Violation violation_{};
    Ring<ReadBeat> reads_;
    Ring<Address> addresses_;
    Ring<WriteData> data_;
    Ring<Write> writes_;
    Ring<Response> responses_;
    uint32_t beat_ = 0, stored_ = 0;
    bool failed_ = false;
};

}  // namespace systolith
