// SPDX-License-Identifier: Apache-2.0
//
// The controller and the banks of an HBM channel, for simulation (Verilog-2005): when beats are read and written.
//
// Its specification is scheduler/cost/hbm/channel.py, which says what the parts do and gives the same commands in the
// same cycles. It holds no data. Bursts are pushed into one of three streams (read id 0, read id 1, writes); for each
// beat a column command comes out, those of a stream in order.
//
// Ports
//   timing      parameters, 16 bits each, the first one of scheduler.cost.hbm.timing.FIELDS lowest. Constant after reset.
//   push        a burst for each stream; not while `full`. `push_beat`: number of the first beat; `push_beats`: 1 to 256.
//   column      what happened in the last cycle: 0 nothing, 1 READ, 2 WRITE, of `column_stream`, the last beat of its
//               burst (`column_last`), in `column_bank` at `column_at`.
//   row         the same on the row bus: 0 nothing, 3 ACTIVATE, 4 PRECHARGE, 5 REFRESH, of `row_bank`, `row_row`.
//
// Record
//   With plusarg +<NAME>_hbm=<file> all that happens from one reset to the next goes into the file, which is closed then:
//   "p cycle stream first beats" for a burst, "c cycle column stream last bank at row bank row" for commands.
//
// A burst that is pushed in a cycle is looked at from the next one on; its first column command is seen two later.

/* verilator lint_off BLKSEQ */
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off WIDTHTRUNC */
/* verilator lint_off DECLFILENAME */

module hbm_channel #(
    parameter FIELDS = 30,
    parameter WINDOW = 8,
    parameter LEAD = 64,
    parameter QUEUE_BITS = 6,
    parameter NAME = "hbm"
) (
    input  wire                 clk,
    input  wire                 rst,
    input  wire                 enable,   // constant after reset; low: nothing happens
    input  wire [16*FIELDS-1:0] timing,
    input  wire [2:0]           push,
    input  wire [3*64-1:0]      push_beat,
    input  wire [3*9-1:0]       push_beats,
    output reg  [2:0]           full,
    output reg  [2:0]           column,
    output reg  [1:0]           column_stream,
    output reg                  column_last,
    output reg  [5:0]           column_bank,
    output reg  [15:0]          column_at,
    output reg  [2:0]           row,
    output reg  [5:0]           row_bank,
    output reg  [63:0]          row_row
);
    localparam DEPTH = 1 << QUEUE_BITS;
    localparam BANKS = 64;
    localparam STREAMS = 3, WRITES = 2;
    localparam [2:0] NONE = 0, READ = 1, WRITE = 2, ACTIVATE = 3, PRECHARGE = 4, REFRESH = 5;

    // The order of FIELDS.
    wire [63:0] t_cwl = timing[16*1 +: 16], t_rcd_rd = timing[16*2 +: 16], t_rcd_wr = timing[16*3 +: 16];
    wire [63:0] t_rp = timing[16*4 +: 16], t_ras = timing[16*5 +: 16], t_rc = timing[16*6 +: 16];
    wire [63:0] t_ccd_s = timing[16*7 +: 16], t_ccd_l = timing[16*8 +: 16];
    wire [63:0] t_rrd_s = timing[16*9 +: 16], t_rrd_l = timing[16*10 +: 16], t_faw = timing[16*11 +: 16];
    wire [63:0] t_wtr_s = timing[16*12 +: 16], t_wtr_l = timing[16*13 +: 16], t_rtw = timing[16*14 +: 16];
    wire [63:0] t_wr = timing[16*15 +: 16], t_rtp = timing[16*16 +: 16], t_rfc_pb = timing[16*17 +: 16];
    wire [15:0] refresh = timing[16*20 +: 16], postponed = timing[16*21 +: 16];
    wire [15:0] group_bits = timing[16*22 +: 16], bank_bits = timing[16*23 +: 16], column_bits = timing[16*24 +: 16];
    wire [15:0] group_at = timing[16*25 +: 16], bank_at = timing[16*26 +: 16], column_from = timing[16*27 +: 16];
    wire [15:0] high_bits = timing[16*28 +: 16], high_at = timing[16*29 +: 16], low_bits = group_bits - high_bits;
    wire [63:0] all_banks = (64'd1 << (64'd1 << (group_bits + bank_bits))) - 64'd1;

    // Everything below is read and assigned, blocking, in the clocked block only.
    reg [63:0] now, order, due, counter, left, column_any, read_any, write_any, activate_any;
    reg [63:0] faw [0:3];
    reg        faw_set [0:3];
    reg        claimed_set;
    reg [5:0]  claimed;
    reg [63:0] column_group [0:7], read_group [0:7], activate_group [0:7];
    reg        open [0:BANKS-1];
    reg [63:0] open_row [0:BANKS-1], bank_read [0:BANKS-1], bank_write [0:BANKS-1], bank_activate [0:BANKS-1];
    reg [63:0] bank_precharge [0:BANKS-1], used [0:BANKS-1];
    reg [31:0] passed [0:BANKS-1];
    reg        wanted [0:BANKS-1];
    reg [63:0] first [0:STREAMS*DEPTH-1], number [0:STREAMS*DEPTH-1];
    reg [8:0]  beats [0:STREAMS*DEPTH-1];
    reg [QUEUE_BITS-1:0] head [0:STREAMS-1];
    reg [QUEUE_BITS:0]   count [0:STREAMS-1], open_entry [0:STREAMS-1];
    reg [8:0]  head_beat [0:STREAMS-1], open_beat [0:STREAMS-1];
    reg [7:0]  lead [0:STREAMS-1];

    integer file;
    reg     asked;
    reg [8*1024-1:0] path;
    initial begin
        file = 0;
        asked = 1'b0;
    end

    // Working variables.
    reg [2:0]  now_column, now_row;
    reg [5:0]  now_column_bank, now_bank;
    reg [15:0] now_at;
    reg [1:0]  now_stream;
    reg [63:0] now_of;
    integer i, k, s, turn, chosen, slot, lowest, best_bank;
    reg [63:0] beat, best, end_of_data, behind, seen;
    reg [5:0]  bank;
    reg [2:0]  group;
    reg        fits, last, done, found, have_behind;
    reg [QUEUE_BITS:0] entry;
    reg [8:0]  offset;

    function [5:0] bank_of(input [63:0] number_of);
        bank_of = ((number_of >> group_at & ((64'd1 << low_bits) - 1)) << bank_bits)
                | ((number_of >> high_at & ((64'd1 << high_bits) - 1)) << (low_bits + bank_bits))
                | (number_of >> bank_at & ((64'd1 << bank_bits) - 1));
    endfunction

    function [63:0] row_of(input [63:0] number_of);
        row_of = number_of >> (group_bits + bank_bits + column_bits);
    endfunction

    task next_beat;   // of a stream, behind the one at `entry` and `offset`, whose burst is in `slot`
        begin
            offset = offset + 9'd1;
            if (offset == beats[slot]) begin
                entry = entry + 1;
                offset = 0;
            end
        end
    endtask

    task row_command(input [2:0] what, input [5:0] which, input [63:0] of);
        begin
            row <= what;
            row_bank <= which;
            row_row <= of;
            now_row = what;
            now_bank = which;
            now_of = of;
        end
    endtask

    task close_row(input [5:0] which);
        begin
            row_command(PRECHARGE, which, open_row[which]);
            open[which] = 1'b0;
            if (bank_activate[which] < now + t_rp) bank_activate[which] = now + t_rp;
        end
    endtask

    always @(posedge clk) begin
        column <= NONE;
        row <= NONE;
        now_column = NONE;
        now_row = NONE;
        if (rst) begin
            if (file != 0) $fclose(file);
            file = 0;
            asked = 1'b0;
            now = 0; order = 0; due = 0; counter = refresh; left = all_banks; claimed_set = 1'b0; claimed = 0;
            column_any = 0; read_any = 0; write_any = 0; activate_any = 0;
            for (i = 0; i < 4; i = i + 1) faw_set[i] = 1'b0;
            for (i = 0; i < 8; i = i + 1) begin
                column_group[i] = 0; read_group[i] = 0; activate_group[i] = 0;
            end
            for (i = 0; i < BANKS; i = i + 1) begin
                open[i] = 1'b0; open_row[i] = 0; bank_read[i] = 0; bank_write[i] = 0; bank_activate[i] = 0;
                bank_precharge[i] = 0; used[i] = 0; passed[i] = 0;
            end
            for (s = 0; s < STREAMS; s = s + 1) begin
                head[s] = 0; count[s] = 0; open_entry[s] = 0; head_beat[s] = 0; open_beat[s] = 0;
                lead[s] = 0;
            end
            full <= 3'b000;
        end else if (enable) begin
            if (!asked && $value$plusargs({NAME, "_hbm=%s"}, path)) file = $fopen(path, "w");
            asked = 1'b1;

            // A column command: of the beats whose rows are open, that of the oldest burst.
            chosen = STREAMS;
            best = 0;
            if (now >= column_any)
                for (s = 0; s < STREAMS; s = s + 1)
                    if (lead[s] != 0) begin
                        slot = s * DEPTH + head[s];
                        bank = bank_of(first[slot] + head_beat[s]);
                        group = bank >> bank_bits;
                        fits = now >= column_group[group];
                        if (s == WRITES) fits = fits && now >= write_any && now >= bank_write[bank];
                        else fits = fits && now >= read_any && now >= read_group[group] && now >= bank_read[bank];
                        if (fits && (chosen == STREAMS || number[slot] < best)) begin
                            best = number[slot];
                            chosen = s;
                        end
                    end
            if (chosen != STREAMS) begin
                slot = chosen * DEPTH + head[chosen];
                beat = first[slot] + head_beat[chosen];
                bank = bank_of(beat);
                group = bank >> bank_bits;
                last = head_beat[chosen] + 9'd1 == beats[slot];
                now_column = chosen == WRITES ? WRITE : READ;
                now_stream = chosen;
                now_column_bank = bank;
                now_at = beat >> column_from & ((64'd1 << column_bits) - 1);
                column <= now_column;
                column_stream <= now_stream;
                column_last <= last;
                column_bank <= bank;
                column_at <= now_at;
                column_any = now + t_ccd_s;
                column_group[group] = now + t_ccd_l;
                if (chosen == WRITES) begin
                    end_of_data = now + t_cwl + t_ccd_s;
                    read_any = end_of_data + t_wtr_s;
                    read_group[group] = end_of_data + t_wtr_l;
                    if (bank_precharge[bank] < end_of_data + t_wr) bank_precharge[bank] = end_of_data + t_wr;
                end else begin
                    write_any = now + t_rtw;
                    if (bank_precharge[bank] < now + t_rtp) bank_precharge[bank] = now + t_rtp;
                end
                passed[bank] = passed[bank] - 1;
                used[bank] = now;
                lead[chosen] = lead[chosen] - 8'd1;
                if (!last) head_beat[chosen] = head_beat[chosen] + 9'd1;
                else begin
                    head[chosen] = head[chosen] + 1;
                    count[chosen] = count[chosen] - 1;
                    head_beat[chosen] = 0;
                    open_entry[chosen] = open_entry[chosen] - 1;
                end
            end

            // A bank is claimed for a refresh.
            if (due != 0 && !claimed_set) begin
                for (i = 0; i < BANKS; i = i + 1) wanted[i] = passed[i] != 0;
                for (s = 0; s < STREAMS; s = s + 1) begin
                    entry = open_entry[s];
                    offset = open_beat[s];
                    for (k = 0; k < WINDOW; k = k + 1)
                        if (entry != count[s]) begin
                            slot = s * DEPTH + ((head[s] + entry) % DEPTH);
                            wanted[bank_of(first[slot] + offset)] = 1'b1;
                            next_beat;
                        end
                end
                lowest = BANKS;
                best_bank = BANKS;
                for (i = 0; i < BANKS; i = i + 1)
                    if (left[i]) begin
                        if (lowest == BANKS) lowest = i;
                        if (!wanted[i] && (best_bank == BANKS || used[i] > used[best_bank])) best_bank = i;
                    end
                if (best_bank == BANKS && due > postponed) best_bank = lowest;
                claimed_set = best_bank != BANKS;
                claimed = best_bank;
            end

            // A row command: for the claimed bank, or for the first of the beats ahead for which one is possible.
            done = 1'b0;
            if (claimed_set) begin
                if (open[claimed]) begin
                    if (passed[claimed] == 0 && now >= bank_precharge[claimed]) begin
                        close_row(claimed);
                        done = 1'b1;
                    end
                end else if (now >= bank_activate[claimed]) begin
                    row_command(REFRESH, claimed, 64'd0);
                    bank_activate[claimed] = now + t_rfc_pb;
                    left[claimed] = 1'b0;
                    if (left == 0) left = all_banks;
                    due = due - 1;
                    claimed_set = 1'b0;
                    done = 1'b1;
                end
            end
            have_behind = 1'b0;
            behind = 0;
            for (turn = 0; turn < STREAMS; turn = turn + 1) begin
                // The stream with the next oldest burst at its opener.
                chosen = STREAMS;
                best = 0;
                for (s = 0; s < STREAMS; s = s + 1)
                    if (open_entry[s] != count[s]) begin
                        slot = s * DEPTH + ((head[s] + open_entry[s]) % DEPTH);
                        if ((!have_behind || number[slot] > behind) && (chosen == STREAMS || number[slot] < best)) begin
                            best = number[slot];
                            chosen = s;
                        end
                    end
                have_behind = 1'b1;
                behind = best;
                if (chosen == STREAMS) done = 1'b1;
                if (!done) begin
                    seen = 0;
                    entry = open_entry[chosen];
                    offset = open_beat[chosen];
                    for (k = 0; k < WINDOW; k = k + 1)
                        if (!done && entry != count[chosen]) begin
                            slot = chosen * DEPTH + ((head[chosen] + entry) % DEPTH);
                            beat = first[slot] + offset;
                            bank = bank_of(beat);
                            group = bank >> bank_bits;
                            if (!seen[bank] && !(claimed_set && claimed == bank)
                                && !(open[bank] && open_row[bank] == row_of(beat))) begin
                                if (!open[bank]) begin
                                    if (now >= bank_activate[bank] && now >= activate_any && now >= activate_group[group]
                                        && (!faw_set[0] || now >= faw[0] + t_faw)) begin
                                        row_command(ACTIVATE, bank, row_of(beat));
                                        open[bank] = 1'b1;
                                        open_row[bank] = row_of(beat);
                                        bank_read[bank] = now + t_rcd_rd;
                                        bank_write[bank] = now + t_rcd_wr;
                                        bank_precharge[bank] = now + t_ras;
                                        bank_activate[bank] = now + t_rc;
                                        used[bank] = now;
                                        activate_any = now + t_rrd_s;
                                        activate_group[group] = now + t_rrd_l;
                                        for (i = 0; i < 3; i = i + 1) begin
                                            faw[i] = faw[i+1];
                                            faw_set[i] = faw_set[i+1];
                                        end
                                        faw[3] = now;
                                        faw_set[3] = 1'b1;
                                        done = 1'b1;
                                    end
                                end else if (passed[bank] == 0 && now >= bank_precharge[bank]) begin
                                    close_row(bank);
                                    done = 1'b1;
                                end
                            end
                            seen[bank] = 1'b1;
                            next_beat;
                        end
                end
            end

            // The openers pass beats whose rows are open.
            for (s = 0; s < STREAMS; s = s + 1) begin
                found = 1'b1;
                for (k = 0; k < WINDOW; k = k + 1)
                    if (found && open_entry[s] != count[s] && lead[s] != LEAD) begin
                        slot = s * DEPTH + ((head[s] + open_entry[s]) % DEPTH);
                        beat = first[slot] + open_beat[s];
                        bank = bank_of(beat);
                        found = !(claimed_set && claimed == bank) && open[bank] && open_row[bank] == row_of(beat);
                        if (found) begin
                            passed[bank] = passed[bank] + 1;
                            lead[s] = lead[s] + 8'd1;
                            open_beat[s] = open_beat[s] + 9'd1;
                            if (open_beat[s] == beats[slot]) begin
                                open_entry[s] = open_entry[s] + 1;
                                open_beat[s] = 0;
                            end
                        end
                    end
            end

            if (file != 0 && (now_column != NONE || now_row != NONE))
                $fwrite(file, "c %0d %0d %0d %0d %0d %0d %0d %0d %0d\n", now, now_column, now_stream, last,
                        now_column_bank, now_at, now_row, now_bank, now_of);

            counter = counter - 1;
            if (counter == 0) begin
                counter = refresh;
                due = due + 1;
            end
            now = now + 1;

            for (s = 0; s < STREAMS; s = s + 1) begin
                if (push[s]) begin
                    if (file != 0)
                        $fwrite(file, "p %0d %0d %0d %0d\n", now - 1, s, push_beat[64*s +: 64], push_beats[9*s +: 9]);
                    slot = s * DEPTH + ((head[s] + count[s]) % DEPTH);
                    first[slot] = push_beat[64*s +: 64];
                    beats[slot] = push_beats[9*s +: 9];
                    number[slot] = order;
                    order = order + 1;
                    count[s] = count[s] + 1;
                end
                full[s] <= count[s] > DEPTH - 3;
            end
        end
    end
endmodule
