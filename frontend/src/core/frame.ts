/** One animation frame for everybody: work asked for during a frame's run is still done in that frame. */

const waiting = new Set<() => void>();
let asked = false;
let running = false;
/** Work that asks for itself again is taken at most this often in one frame. */
const PASSES = 4;

export function nextFrame(work: () => void): void {
  waiting.add(work);
  if (asked || running) return;
  asked = true;
  requestAnimationFrame(runFrame);
}

function runFrame(): void {
  asked = false;
  running = true;
  try {
    for (let pass = 0; pass < PASSES && waiting.size > 0; pass += 1) {
      const batch = [...waiting];
      waiting.clear();
      for (const work of batch) work();
    }
  } finally {
    running = false;
    if (waiting.size > 0) {
      asked = true;
      requestAnimationFrame(runFrame);
    }
  }
}
