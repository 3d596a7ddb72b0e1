/** The keys of a figure in words (`keys.ts` is what they do). */

export interface Shortcut {
  keys: string[];
  does: string;
}

/** What the `?` dialog lists. */
export const SHORTCUTS: Shortcut[] = [
  { keys: ['←', '→', '↑', '↓'], does: 'Move to the next cell' },
  { keys: ['Home', 'End'], does: 'First or last column' },
  { keys: ['Shift', '+ arrows'], does: 'Select a region' },
  { keys: ['Enter'], does: 'Pin or unpin the cell (A–D)' },
  { keys: ['z'], does: 'Zoom to the selection' },
  { keys: ['0'], does: 'Show everything again' },
  { keys: ['h'], does: 'Heads here: a new layer × head run' },
  { keys: ['c'], does: 'Copy the values of the selection, or of the map' },
  { keys: ['v'], does: 'Show values in the cells' },
  { keys: ['f'], does: 'Flip: first layer at the top or bottom' },
  { keys: ['t'], does: 'View as table' },
  { keys: ['e'], does: 'Export' },
  { keys: ['Esc'], does: 'Clear the selection' },
  { keys: ['?'], does: 'This list' },
];
