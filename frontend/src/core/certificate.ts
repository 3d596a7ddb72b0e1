/** Certificates: what each check says, failed ones first, in words, colour and sign. */
import { tick } from './format';
import type { CertificateResult, Check } from './results';

export interface CheckLine {
  check: Check;
  word: 'passed' | 'failed' | 'for information';
  sign: '✓' | '✗' | '·';
  status: 'succeeded' | 'failed' | 'queued';
  /** `0.92, limit 0.85`; empty where there is no number. */
  numbers: string;
}

export function checkLines(certificate: CertificateResult): CheckLine[] {
  return certificate.checks.map((check) => ({ check, ...verdict(check.passed), numbers: numbersOf(check) }));
}

function verdict(passed: boolean | null): Pick<CheckLine, 'word' | 'sign' | 'status'> {
  if (passed === true) return { word: 'passed', sign: '✓', status: 'succeeded' };
  if (passed === false) return { word: 'failed', sign: '✗', status: 'failed' };
  return { word: 'for information', sign: '·', status: 'queued' };
}

function numbersOf({ value, limit }: Check): string {
  const parts = [value === null ? '' : tick(value), limit === null ? '' : `limit ${tick(limit)}`];
  return parts.filter(Boolean).join(', ');
}

/** `2 of 3 checks passed, 1 failed, 1 warning.` */
export function verdictText(certificate: CertificateResult): string {
  const judged = certificate.checks.filter((check) => check.passed !== null);
  const failed = judged.filter((check) => check.passed === false).length;
  const passed = judged.length - failed;
  const warnings = certificate.warnings.length;
  const parts = [judged.length > 0 ? `${passed} of ${judged.length} checks passed` : 'no check with a limit'];
  if (failed > 0) parts.push(`${failed} failed`);
  if (warnings > 0) parts.push(warnings === 1 ? '1 warning' : `${warnings} warnings`);
  return `${parts.join(', ')}.`;
}
