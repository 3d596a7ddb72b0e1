/** Widths of texts in the fonts of figures. */

/** Width in CSS pixels of a text in this font; about right where there is no canvas. */
export function measurer(font: string): (text: string) => number {
  const context = document.createElement('canvas').getContext('2d');
  if (context) context.font = font;
  return (text) => context?.measureText(text).width ?? text.length * 7.3;
}
