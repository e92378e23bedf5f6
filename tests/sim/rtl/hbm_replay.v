// SPDX-License-Identifier: Apache-2.0
//
// Pushes the bursts of a file into an HBM channel, each as soon as its cycle has come and its stream has room, up to one
// of each stream a cycle in their order, and writes every command to another file.
//
// +requests=FILE  hex words of 128 bits: cycle (63:0 in the upper half), stream (2), beats (9), first beat (53)
// +commands=FILE  lines "cycle column stream last bank at row bank row"

/* verilator lint_off BLKSEQ */
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off WIDTHTRUNC */
/* verilator lint_off DECLFILENAME */

module hbm_replay #(
    parameter FIELDS = 30,
    parameter MOST = 8192
) (
    input  wire                 clk,
    input  wire                 rst,
    input  wire [16*FIELDS-1:0] timing,
    input  wire [31:0]          count,
    output reg  [31:0]          place
);
    reg [127:0] requests [0:MOST-1];
    reg [2:0] push;
    reg [3*64-1:0] push_beat;
    reg [3*9-1:0] push_beats;
    reg [63:0] now;
    reg [8*1024-1:0] path;
    reg more;
    integer file, past;
    wire [2:0] full, column, row;
    wire [1:0] column_stream;
    wire column_last;
    wire [5:0] column_bank, row_bank;
    wire [15:0] column_at;
    wire [63:0] row_row;

    hbm_channel #(.FIELDS(FIELDS)) channel (
        .clk(clk), .rst(rst), .enable(1'b1), .timing(timing), .push(push), .push_beat(push_beat), .push_beats(push_beats), .full(full),
        .column(column), .column_stream(column_stream), .column_last(column_last), .column_bank(column_bank),
        .column_at(column_at), .row(row), .row_bank(row_bank), .row_row(row_row)
    );

    initial begin
        if ($value$plusargs("requests=%s", path)) $readmemh(path, requests);
        file = 0;
        if ($value$plusargs("commands=%s", path)) file = $fopen(path, "w");
    end

    // What is pushed at a clock edge is decided half a cycle before.
    always @(negedge clk) begin
        push = 3'b000;
        if (rst) place = 0;
        else begin
            more = 1'b1;
            past = -1;
            while (more && place < count) begin
                more = requests[place][127:64] <= now && !full[requests[place][63:62]]
                     && $signed({30'd0, requests[place][63:62]}) > past;
                if (more) begin
                    past = {30'd0, requests[place][63:62]};
                    push[requests[place][63:62]] = 1'b1;
                    push_beat[64*requests[place][63:62] +: 64] = {11'd0, requests[place][52:0]};
                    push_beats[9*requests[place][63:62] +: 9] = requests[place][61:53];
                    place = place + 1;
                end
            end
        end
    end

    always @(posedge clk) begin
        if (rst) now <= 0;
        else begin
            now <= now + 1;
            if (column != 0 || row != 0)
                $fwrite(file, "%0d %0d %0d %0d %0d %0d %0d %0d %0d\n", now - 1, column, column_stream, column_last,
                        column_bank, column_at, row, row_bank, row_row);
        end
    end
endmodule
