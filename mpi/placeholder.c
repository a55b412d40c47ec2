typedef int sl_placeholder;
