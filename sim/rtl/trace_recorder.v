// SPDX-License-Identifier: Apache-2.0
//
// Writes what happens in the machine to a file, for timelines (Verilog-2005; Verilator and Icarus Verilog 11).
//
// A rising `trace_on` opens the file of plusarg +trace=<file> anew, a falling one closes it. In between, a line
//     <cycle> <events> <activity>
// stands for each cycle in which an event happens or the activity changes: the cycle in decimal, counted like the
// performance counters (0 = the first cycle of a stream), the two parts of the machine's trace output in hexadecimal.
// What is written holds until the next line. The line "end <cycles>" follows a stream's last cycle.
// Without the plusarg nothing happens.

/* verilator lint_off BLKSEQ */
/* verilator lint_off DECLFILENAME */

module trace_recorder #(
    parameter EVENTS   = 1,   // bits of events, above the lowest bit of `trace`, which says that a stream runs
    parameter ACTIVITY = 1    // bits of activity, above the events
) (
    input wire                     clk,
    input wire                     trace_on,
    input wire [ACTIVITY+EVENTS:0] trace
);
    wire                running  = trace[0];
    wire [EVENTS-1:0]   events   = trace[EVENTS:1];
    wire [ACTIVITY-1:0] activity = trace[ACTIVITY+EVENTS:EVENTS+1];

    integer            file;
    reg                on_before, running_before;
    reg [ACTIVITY-1:0] activity_before;
    reg [31:0]         cycle;
    reg [8*1024-1:0]   path;

    initial begin
        file = 0;
        on_before = 1'b0;
        running_before = 1'b0;
        cycle = 0;
    end

    always @(posedge clk) begin
        if (trace_on != on_before) begin
            if (trace_on) begin
                if ($value$plusargs("trace=%s", path)) file = $fopen(path, "w");
            end else if (file != 0) begin
                $fclose(file);
                file = 0;
            end
            on_before = trace_on;
        end
        if (running) begin
            if (!running_before) cycle = 0;
            if (file != 0 && (!running_before || events != 0 || activity != activity_before))
                $fwrite(file, "%0d %h %h\n", cycle, events, activity);
            activity_before = activity;
            cycle = cycle + 1;
        end else if (running_before && file != 0) begin
            $fwrite(file, "end %0d\n", cycle);
        end
        running_before = running;
    end
endmodule
