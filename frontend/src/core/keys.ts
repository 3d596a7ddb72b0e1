/** The keys of a figure. They act only while the figure has focus, so that no single key surprises anyone elsewhere. */

export type Action =
  | 'left' | 'right' | 'up' | 'down' | 'home' | 'end'
  | 'extend-left' | 'extend-right' | 'extend-up' | 'extend-down'
  | 'pin' | 'zoom' | 'reset' | 'heads' | 'export' | 'table' | 'values' | 'flip' | 'copy' | 'help' | 'clear'; // prettier-ignore

const ARROWS = new Map([
  ['ArrowLeft', 'left'],
  ['ArrowRight', 'right'],
  ['ArrowUp', 'up'],
  ['ArrowDown', 'down'],
]);
const SINGLE = new Map<string, Action>([
  ['Home', 'home'],
  ['End', 'end'],
  ['Enter', 'pin'],
  [' ', 'pin'],
  ['z', 'zoom'],
  ['0', 'reset'],
  ['h', 'heads'],
  ['e', 'export'],
  ['t', 'table'],
  ['v', 'values'],
  ['f', 'flip'],
  ['c', 'copy'],
  ['?', 'help'],
  ['Escape', 'clear'],
]);

type KeyLike = Pick<KeyboardEvent, 'key' | 'shiftKey' | 'ctrlKey' | 'metaKey' | 'altKey'>;

/** The action of a key press on a focused figure; `null` leaves the key to the browser. */
export function actionOf(event: KeyLike): Action | null {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const arrow = ARROWS.get(event.key);
  if (arrow) return (event.shiftKey ? `extend-${arrow}` : arrow) as Action;
  return SINGLE.get(event.key) ?? null;
}
