// SPDX-License-Identifier: Apache-2.0
//
// AXI4 slave memory for simulation (Verilog-2005; Verilator and Icarus Verilog 11).
//
// Independent read and write paths, INCR bursts, several bursts outstanding on each. Responses come in order within an
// id. With every stall rate at zero it moves one beat per cycle on R and on W without a bubble, also between bursts.
//
// Timing
//   The first beat of a read burst shows `read_latency` cycles (at least 2) after its address was taken, the response of
//   a write burst `write_latency` cycles (at least 2) after its last beat. `jitter` adds 0..jitter random cycles to each.
//   `reorder` lets bursts of different read ids overtake each other and interleave beat by beat; without it, bursts are
//   answered in the order of their addresses. `stall_*` is the chance in 1/256 that a channel pauses for a cycle.
//   All randomness comes from `seed`, taken at reset.
//   With `hbm`, constant after reset, an HBM channel (hbm_channel.v, with its parameters in `hbm_timing`) says when beats
//   are read and written, in place of latency, jitter and `reorder`; it is for one or two read ids. A beat of a read is
//   shown `cl + ccd_s + path` cycles after its command or later; the response of a write follows its last beat's command.
//
// Size
//   The memory has `size` bytes, a power of two up to 2**ADDR_BITS; 0 stands for all of them. It may change while no
//   burst is under way, so that one compiled simulator serves small and large memories.
//
// Errors on purpose
//   Beats with a byte address in [read_error_first, read_error_end) answer SLVERR; a write burst with such a beat in
//   [write_error_first, write_error_end) answers SLVERR, and that beat is not written. Outside the memory: DECERR.
//
// Back door
//   A rising `load` reads the hex file of plusarg +<NAME>_load=<file> into the memory ($readmemh: words of DATA_BYTES
//   bytes, most significant digit first; @ addresses in words allow sparse files). A rising `dump` writes words
//   dump_first..dump_last to the file of +<NAME>_dump=<file>: the bytes as they lie in the memory (on a host with the
//   lowest byte first), unknown bits as 0. Without the plusarg nothing happens.
//
// Checks
//   `assert_fail` rises and stays until reset when the master breaks a rule: VALID withdrawn or payload changed before READY, a burst
//   that is not INCR, not full width, not aligned, crosses 4 KiB or leaves the memory, WLAST in the wrong place, unknown
//   bits in a byte to be written.

/* verilator lint_off BLKSEQ */
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off WIDTHTRUNC */
/* verilator lint_off DECLFILENAME */

module axi_memory #(
    parameter DATA_BYTES    = 4,    // power of two
    parameter ADDR_BITS     = 20,   // logarithm of the largest size in bytes
    parameter AXI_ADDR_BITS = 32,   // width of araddr and awaddr, at least ADDR_BITS
    parameter ID_BITS       = 1,
    parameter QUEUE_BITS    = 6,    // logarithm of the bursts that may wait, of each read id and of the writes
    parameter NAME          = "memory"
) (
    input  wire                      clk,
    input  wire                      rst,

    input  wire [ID_BITS-1:0]        arid,
    input  wire [AXI_ADDR_BITS-1:0]  araddr,
    input  wire [7:0]                arlen,
    input  wire [2:0]                arsize,
    input  wire [1:0]                arburst,
    input  wire                      arvalid,
    output reg                       arready,
    output reg  [ID_BITS-1:0]        rid,
    output reg  [8*DATA_BYTES-1:0]   rdata,
    output reg  [1:0]                rresp,
    output reg                       rlast,
    output reg                       rvalid,
    input  wire                      rready,

    input  wire [ID_BITS-1:0]        awid,
    input  wire [AXI_ADDR_BITS-1:0]  awaddr,
    input  wire [7:0]                awlen,
    input  wire [2:0]                awsize,
    input  wire [1:0]                awburst,
    input  wire                      awvalid,
    output reg                       awready,
    input  wire [8*DATA_BYTES-1:0]   wdata,
    input  wire [DATA_BYTES-1:0]     wstrb,
    input  wire                      wlast,
    input  wire                      wvalid,
    output reg                       wready,
    output reg  [ID_BITS-1:0]        bid,
    output reg  [1:0]                bresp,
    output reg                       bvalid,
    input  wire                      bready,

    input  wire [15:0]               read_latency,
    input  wire [15:0]               write_latency,
    input  wire [15:0]               jitter,
    input  wire                      reorder,
    input  wire                      hbm,
    input  wire [16*30-1:0]          hbm_timing,
    input  wire [7:0]                stall_ar,
    input  wire [7:0]                stall_r,
    input  wire [7:0]                stall_aw,
    input  wire [7:0]                stall_w,
    input  wire [7:0]                stall_b,
    input  wire [31:0]               seed,
    input  wire [63:0]               size,
    input  wire [63:0]               read_error_first,
    input  wire [63:0]               read_error_end,
    input  wire [63:0]               write_error_first,
    input  wire [63:0]               write_error_end,

    input  wire                      load,
    input  wire                      dump,
    input  wire [31:0]               dump_first,
    input  wire [31:0]               dump_last,

    output reg                       assert_fail,
    output reg  [63:0]               beats_read,
    output reg  [63:0]               beats_written,

    // What the HBM channel did in the last cycle; see hbm_channel.v.
    output wire [2:0]                hbm_column,
    output wire [2:0]                hbm_row
);
    localparam WORDS      = (1 << ADDR_BITS) / DATA_BYTES;
    localparam IDS        = 1 << ID_BITS;
    localparam DEPTH      = 1 << QUEUE_BITS;
    localparam BYTE_BITS  = $clog2(DATA_BYTES);
    localparam [63:0] MOST = 64'd1 << ADDR_BITS;

    wire [63:0] bytes = size == 0 ? MOST : size;

    localparam [1:0] OKAY = 2'b00, SLVERR = 2'b10, DECERR = 2'b11;

    reg [8*DATA_BYTES-1:0] mem [0:WORDS-1];

    // Read bursts that wait, one queue an id.
    reg [63:0]           read_addr  [0:IDS*DEPTH-1];   // of the next beat
    reg [7:0]            read_left  [0:IDS*DEPTH-1];   // beats after the next
    reg [31:0]           read_ready [0:IDS*DEPTH-1];
    reg [31:0]           read_order [0:IDS*DEPTH-1];
    reg [QUEUE_BITS-1:0] read_head  [0:IDS-1];
    reg [QUEUE_BITS:0]   read_count [0:IDS-1];
    // Write bursts that wait for their beats, and responses.
    reg [63:0]           write_addr [0:DEPTH-1];
    reg [7:0]            write_left [0:DEPTH-1];
    reg [ID_BITS-1:0]    write_id   [0:DEPTH-1];
    reg [QUEUE_BITS-1:0] write_head;
    reg [QUEUE_BITS:0]   write_count;
    reg [1:0]            write_resp;
    reg [31:0]           reply_ready [0:DEPTH-1];
    reg [ID_BITS-1:0]    reply_id    [0:DEPTH-1];
    reg [1:0]            reply_resp  [0:DEPTH-1];
    reg [QUEUE_BITS-1:0] reply_head;
    reg [QUEUE_BITS:0]   reply_count;

    // With an HBM channel: ids of the beats that come, in order, and when; bursts whose beats are all written.
    localparam COMING = 1 << (QUEUE_BITS + 5);
    reg [ID_BITS-1:0]    coming_id    [0:COMING-1];
    reg [31:0]           coming_ready [0:COMING-1];
    reg [QUEUE_BITS+4:0] coming_head;
    reg [QUEUE_BITS+5:0] coming_count;
    reg [31:0]           written;
    reg [63:0]           write_first;
    reg [8:0]            write_beats;
    reg  [2:0]           hbm_push;
    reg  [3*64-1:0]      hbm_beat;
    reg  [3*9-1:0]       hbm_beats;
    wire [2:0]           hbm_full;
    wire [1:0]           hbm_stream;
    wire                 hbm_last;
    wire [31:0]          hbm_delay = hbm_timing[15:0] + hbm_timing[16*7 +: 16] + hbm_timing[16*19 +: 16];
    hbm_channel #(.QUEUE_BITS(QUEUE_BITS), .NAME(NAME)) channel (
        .clk(clk), .rst(rst), .enable(hbm), .timing(hbm_timing), .push(hbm_push), .push_beat(hbm_beat),
        .push_beats(hbm_beats), .full(hbm_full), .column(hbm_column), .column_stream(hbm_stream),
        .column_last(hbm_last), .column_bank(), .column_at(), .row(hbm_row), .row_bank(), .row_row()
    );

    reg [31:0] now;
    reg [31:0] order;
    reg [31:0] lfsr;
    reg        write_open;
    integer    failures;

    // The values of the cycle before, for the stability checks.
    reg ar_held, aw_held, w_held;
    reg [AXI_ADDR_BITS+ID_BITS+12:0] ar_before, aw_before;
    reg [9*DATA_BYTES:0] w_before;
    wire [AXI_ADDR_BITS+ID_BITS+12:0] ar_now = {arid, araddr, arlen, arsize, arburst};
    wire [AXI_ADDR_BITS+ID_BITS+12:0] aw_now = {awid, awaddr, awlen, awsize, awburst};
    wire [9*DATA_BYTES:0] w_now = {wdata, wstrb, wlast};

    // Working variables of the clocked block.
    // Queue state is assigned blocking and is read in this block only; everything that leaves it, nonblocking.
    integer i, k, slot, chosen, file;
    reg [63:0] address;
    reg [8*DATA_BYTES-1:0] word;
    reg found;
    reg load_before, dump_before;
    reg [8*1024-1:0] path;

    function [31:0] shuffle(input [31:0] state);   // xorshift32
        begin
            shuffle = state ^ (state << 13);
            shuffle = shuffle ^ (shuffle >> 17);
            shuffle = shuffle ^ (shuffle << 5);
        end
    endfunction

    task fail(input [8*48-1:0] what, input [63:0] where);
        begin
            if (failures < 10)
                $display("%0s: AXI rule broken at cycle %0d, address 0x%0x: %0s", NAME, now, where, what);
            failures = failures + 1;
            assert_fail <= 1'b1;
        end
    endtask

    task check_request(input [63:0] a, input [7:0] len, input [2:0] size, input [1:0] burst);
        begin
            if (burst != 2'b01) fail("burst is not INCR", a);
            if ((1 << size) != DATA_BYTES) fail("size is not the full width", a);
            if ((a & (DATA_BYTES - 1)) != 0) fail("address is not aligned to a beat", a);
            if ((a & 64'd4095) + (len + 64'd1) * DATA_BYTES > 64'd4096) fail("burst crosses 4 KiB", a);
            if (a + (len + 64'd1) * DATA_BYTES > bytes) fail("burst leaves the memory", a);
        end
    endtask

    initial begin
        assert_fail = 1'b0;
        load_before = 1'b0;
        dump_before = 1'b0;
        failures = 0;
        arready = 1'b0; awready = 1'b0; rvalid = 1'b0; bvalid = 1'b0; wready = 1'b0;
        write_count = 0; reply_count = 0;
    end

    always @(posedge clk) begin
        load_before <= load;
        dump_before <= dump;
        if (load && !load_before && $value$plusargs({NAME, "_load=%s"}, path)) $readmemh(path, mem);
        if (dump && !dump_before && $value$plusargs({NAME, "_dump=%s"}, path)) begin
            file = $fopen(path, "wb");   // half the time of $writememh, and read back in a twentieth
            for (i = dump_first; i <= dump_last; i = i + 1) $fwrite(file, "%u", mem[i]);
            $fclose(file);
        end

        if (rst) begin
            now <= 0;
            order <= 0;
            lfsr = (seed ^ 32'h9e3779b9) == 0 ? 32'd1 : seed ^ 32'h9e3779b9;
            for (i = 0; i < IDS; i = i + 1) begin
                read_head[i] = 0;
                read_count[i] = 0;
            end
            write_head = 0; write_count = 0; write_resp = OKAY; wready <= 1'b0; write_beats = 0;
            reply_head = 0; reply_count = 0;
            arready <= 1'b0; awready <= 1'b0; rvalid <= 1'b0; bvalid <= 1'b0;
            assert_fail <= 1'b0;
            failures = 0;
            ar_held <= 1'b0; aw_held <= 1'b0; w_held <= 1'b0;
            beats_read <= 0; beats_written <= 0;
            coming_head = 0; coming_count = 0; written = 0; hbm_push <= 3'b000;
        end else begin
            now <= now + 1;
            hbm_push <= 3'b000;

            // What the HBM channel has done.
            if (hbm_column == 3'd1) begin
                i = (coming_head + coming_count) % COMING;
                coming_id[i] = hbm_stream;
                coming_ready[i] = now + hbm_delay - 1;
                coming_count = coming_count + 1;
                if (coming_count == COMING) fail("too many beats are not taken", 0);
            end
            if (hbm_column == 3'd2 && hbm_last) written = written + 1;

            // R: the next beat, when the output register is free.
            if (rvalid && rready) begin
                rvalid <= 1'b0;
                beats_read <= beats_read + 1;
            end
            lfsr = shuffle(lfsr);
            if ((!rvalid || rready) && lfsr[7:0] >= stall_r) begin
                found = 1'b0;
                chosen = 0;
                for (k = 0; k < IDS; k = k + 1) begin
                    i = reorder ? (k + lfsr[15:8]) % IDS : k;
                    slot = i * DEPTH + read_head[i];
                    if (hbm) begin
                        if (coming_count != 0 && coming_id[coming_head] == i && now >= coming_ready[coming_head]) begin
                            found = 1'b1;
                            chosen = slot;
                        end
                    end else if (read_count[i] != 0 && (reorder ? !found && now >= read_ready[slot]
                                                       : !found || read_order[slot] < read_order[chosen])) begin
                        found = 1'b1;
                        chosen = slot;
                    end
                end
                if (found && (hbm || now >= read_ready[chosen])) begin
                    i = chosen / DEPTH;
                    if (hbm) begin
                        coming_head = coming_head + 1;
                        coming_count = coming_count - 1;
                    end
                    address = read_addr[chosen];
                    rvalid <= 1'b1;
                    rid <= i;
                    rdata <= mem[(address & (MOST - 1)) >> BYTE_BITS];
                    rlast <= read_left[chosen] == 0;
                    rresp <= address >= bytes ? DECERR
                           : address >= read_error_first && address < read_error_end ? SLVERR : OKAY;
                    if (read_left[chosen] == 0) begin
                        read_head[i] = read_head[i] + 1;
                        read_count[i] = read_count[i] - 1;
                    end else begin
                        read_addr[chosen] = address + DATA_BYTES;
                        read_left[chosen] = read_left[chosen] - 1;
                    end
                end
            end

            // AR
            lfsr = shuffle(lfsr);
            arready <= lfsr[7:0] >= stall_ar;
            if (arvalid && arready) begin
                check_request(araddr, arlen, arsize, arburst);
                i = arid;
                k = read_head[i] + read_count[i];
                slot = i * DEPTH + (k % DEPTH);
                read_addr[slot] = araddr;
                read_left[slot] = arlen;
                read_ready[slot] = now + read_latency - 1 + (lfsr[31:16] % (jitter + 1));   // TIMING
                read_order[slot] = order;
                order <= order + 1;
                read_count[i] = read_count[i] + 1;
                if (hbm) begin
                    hbm_push[i] <= 1'b1;
                    hbm_beat[64*i +: 64] <= araddr >> BYTE_BITS;
                    hbm_beats[9*i +: 9] <= arlen + 9'd1;
                end
            end
            for (i = 0; i < IDS; i = i + 1)
                if (read_count[i] > DEPTH - 2 || (hbm && read_count[i] > DEPTH - 4)) arready <= 1'b0;

            // B
            if (bvalid && bready) bvalid <= 1'b0;
            lfsr = shuffle(lfsr);
            if (reply_count != 0 && (!bvalid || bready) && lfsr[7:0] >= stall_b
                && (hbm ? written != 0 : now >= reply_ready[reply_head])) begin
                bvalid <= 1'b1;
                if (hbm) written = written - 1;
                bid <= reply_id[reply_head];
                bresp <= reply_resp[reply_head];
                reply_head = reply_head + 1;
                reply_count = reply_count - 1;
            end

            // W: beats of the oldest write burst.
            if (wvalid && wready) begin
                address = write_addr[write_head];
                if (write_beats == 0) write_first = address;
                write_beats = write_beats + 9'd1;
                if (wlast != (write_left[write_head] == 0)) fail("WLAST is in the wrong place", address);
                if (address >= bytes) begin
                    write_resp = DECERR;
                end else if (address >= write_error_first && address < write_error_end) begin
                    if (write_resp == OKAY) write_resp = SLVERR;
                end else begin
                    word = mem[address >> BYTE_BITS];
                    for (i = 0; i < DATA_BYTES; i = i + 1)
                        if (wstrb[i]) begin
                            word[8*i +: 8] = wdata[8*i +: 8];
                            if (^wdata[8*i +: 8] === 1'bx) fail("unknown data is written", address);
                        end
                    mem[address >> BYTE_BITS] = word;
                end
                beats_written <= beats_written + 1;
                write_addr[write_head] = address + DATA_BYTES;
                if (write_left[write_head] == 0) begin
                    k = reply_head + reply_count;
                    slot = k % DEPTH;
                    reply_ready[slot] = now + write_latency - 1 + (lfsr[31:16] % (jitter + 1));   // TIMING
                    reply_id[slot] = write_id[write_head];
                    reply_resp[slot] = write_resp;
                    reply_count = reply_count + 1;
                    write_resp = OKAY;
                    if (hbm) begin
                        hbm_push[2] <= 1'b1;
                        hbm_beat[64*2 +: 64] <= write_first >> BYTE_BITS;
                        hbm_beats[9*2 +: 9] <= write_beats;
                    end
                    write_beats = 0;
                    write_head = write_head + 1;
                    write_count = write_count - 1;
                end else begin
                    write_left[write_head] = write_left[write_head] - 1;
                end
            end
            lfsr = shuffle(lfsr);
            write_open = lfsr[7:0] >= stall_w;

            // AW
            lfsr = shuffle(lfsr);
            awready <= lfsr[7:0] >= stall_aw;
            if (awvalid && awready) begin
                check_request(awaddr, awlen, awsize, awburst);
                k = write_head + write_count;
                slot = k % DEPTH;
                write_addr[slot] = awaddr;
                write_left[slot] = awlen;
                write_id[slot] = awid;
                write_count = write_count + 1;
            end
            if (write_count > DEPTH - 2) awready <= 1'b0;
            wready <= write_open && write_count != 0 && reply_count < DEPTH - 1;

            // Stability of what was not taken.
            if (ar_held && !(arvalid && ar_now == ar_before)) fail("AR changed before ARREADY", araddr);
            if (aw_held && !(awvalid && aw_now == aw_before)) fail("AW changed before AWREADY", awaddr);
            if (w_held && !(wvalid && w_now == w_before)) fail("W changed before WREADY", 0);
            ar_held <= arvalid && !arready;
            aw_held <= awvalid && !awready;
            w_held <= wvalid && !wready;
            ar_before <= ar_now;
            aw_before <= aw_now;
            w_before <= w_now;
        end
    end
endmodule
