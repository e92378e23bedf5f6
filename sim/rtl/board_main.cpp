// SPDX-License-Identifier: Apache-2.0
//
// The board's top in simulation, behind a pseudo terminal: what opens the terminal sees the board's serial line.
//
// Arguments: clocks of a bit, and the file to which the terminal's name goes. Bytes of the terminal go onto the line `rx`
// bit by bit, what the board sends on `tx` is taken off it bit by bit. Runs until SIGTERM.

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <termios.h>
#include <unistd.h>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr int FRAME_BITS = 10;             // start, eight of data, stop
constexpr int POLL_CLOCKS = 64;            // how often the terminal is looked at
constexpr long QUIET_CLOCKS = 4'000'000;   // after so many without a byte, the simulation goes slowly
constexpr int QUIET_MS = 5;

volatile std::sig_atomic_t stopped = 0;

void stop(int) { stopped = 1; }

void fail(const char *what) {
    std::perror(what);
    std::exit(1);
}

// Puts bytes on a line.
class Sender {
public:
    explicit Sender(int divisor) : divisor_(divisor) {}

    bool idle() const { return left_ == 0; }

    void send(uint8_t byte) {
        frame_ = 1u << 9 | unsigned(byte) << 1;
        left_ = FRAME_BITS * divisor_;
    }

    // The line in this clock.
    int line() {
        if (left_ == 0) return 1;
        const int bit = FRAME_BITS - 1 - (left_ - 1) / divisor_;
        --left_;
        return frame_ >> bit & 1;
    }

private:
    int divisor_;
    unsigned frame_ = 0;
    int left_ = 0;
};

// Takes bytes off a line.
class Taker {
public:
    explicit Taker(int divisor) : divisor_(divisor) {}

    // Returns a byte when its stop bit has come, else -1.
    int clock(int line) {
        if (bits_ == 0) {
            if (line) return -1;
            bits_ = FRAME_BITS;
            wait_ = divisor_ / 2;
            return -1;
        }
        if (--wait_ > 0) return -1;
        wait_ = divisor_;
        frame_ = (frame_ >> 1) | unsigned(line) << (FRAME_BITS - 1);
        if (--bits_ > 0) return -1;
        if ((frame_ & 1) || !(frame_ >> (FRAME_BITS - 1) & 1)) {
            std::fprintf(stderr, "the board sent a byte without a start or a stop bit\n");
            std::exit(1);
        }
        return frame_ >> 1 & 0xFF;
    }

private:
    int divisor_;
    unsigned frame_ = 0;
    int bits_ = 0, wait_ = 0;
};

int open_terminal(const std::string &name_file) {
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master)) fail("pseudo terminal");
    const char *name = ptsname(master);
    if (name == nullptr) fail("pseudo terminal");
    // Held open here too: without anybody at the other end, reading the terminal is an error.
    const int slave = open(name, O_RDWR | O_NOCTTY);
    termios raw{};
    if (slave < 0 || tcgetattr(slave, &raw)) fail(name);
    cfmakeraw(&raw);
    if (tcsetattr(slave, TCSANOW, &raw)) fail(name);
    fcntl(master, F_SETFL, O_NONBLOCK);
    const std::string scratch = name_file + ".part";
    FILE *file = std::fopen(scratch.c_str(), "w");
    if (file == nullptr || std::fputs(name, file) < 0 || std::fclose(file)) fail(scratch.c_str());
    if (std::rename(scratch.c_str(), name_file.c_str())) fail(name_file.c_str());
    return master;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s CLOCKS_PER_BIT NAME_FILE\n", argv[0]);
        return 2;
    }
    const int divisor = std::atoi(argv[1]);
    std::signal(SIGTERM, stop);
    VerilatedContext context;
    Vtop top{&context};
    Sender sender{divisor};
    Taker taker{divisor};
    std::deque<uint8_t> incoming, outgoing;
    top.rst = 1;
    top.rx = 1;
    top.clk = 0;
    top.eval();
    const int terminal = open_terminal(argv[2]);
    long quiet = 0;
    for (uint64_t clock = 0; !stopped; ++clock) {
        if (clock == 8) top.rst = 0;
        if (clock % POLL_CLOCKS == 0) {
            uint8_t bytes[256];
            if (incoming.empty()) {
                if (quiet > QUIET_CLOCKS) {
                    pollfd waiting{terminal, POLLIN, 0};
                    poll(&waiting, 1, QUIET_MS);
                }
                const ssize_t count = read(terminal, bytes, sizeof bytes);
                if (count < 0 && errno != EAGAIN && errno != EINTR) fail("read of the terminal");
                for (ssize_t at = 0; at < count; ++at) incoming.push_back(bytes[at]);
            }
            while (!outgoing.empty()) {
                size_t count = 0;
                for (; count < sizeof bytes && count < outgoing.size(); ++count) bytes[count] = outgoing[count];
                const ssize_t written = write(terminal, bytes, count);
                if (written < 0) {
                    if (errno == EAGAIN || errno == EINTR) break;
                    fail("write to the terminal");
                }
                outgoing.erase(outgoing.begin(), outgoing.begin() + written);
            }
        }
        if (sender.idle() && !incoming.empty()) {
            sender.send(incoming.front());
            incoming.pop_front();
            quiet = 0;
        }
        top.rx = sender.line();
        top.eval();
        top.clk = 1;
        top.eval();
        const int byte = taker.clock(top.tx);
        if (byte >= 0) {
            outgoing.push_back(uint8_t(byte));
            quiet = 0;
        }
        ++quiet;
        top.clk = 0;
        top.eval();
    }
    top.final();
    return 0;
}
