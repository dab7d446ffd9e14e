// The board, its pins by names that C++ can have.
module board_pins (input clk25, input button, input rx, output tx, output [1:0] leds);
    systolith_board board (
        .clk25_0__io(clk25),
        .button_fire_0__io(button),
        .uart_0__rx__io(rx),
        .uart_0__tx__io(tx),
        .led_0__io(leds[0]),
        .led_1__io(leds[1])
    );
endmodule
