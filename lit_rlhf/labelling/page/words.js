// Verdicts, numbers and durations in words.

/** A, B, …: how the page calls the response at a position. */
export function letter(position) {
  return String.fromCharCode(65 + position);
}

/** `B > A = C`, best first. */
export function orderInWords(ranking) {
  return ranking.map((group) => group.map(letter).join(" = ")).join(" > ");
}

export function verdictInWords(verdict, mode) {
  if (!verdict) return "not judged";
  if (verdict.skip) return `skipped: ${verdict.skip}`;
  if (verdict.ratings) return verdict.ratings.map((rating, i) => `${letter(i)} ${rating}`).join(", ");
  if (verdict.rewrite !== undefined) return `rewritten from ${letter(verdict.rewrite_of ?? 0)}`;
  if (verdict.both_bad) return mode === "pairwise" ? "both bad" : "all bad";
  if (mode !== "pairwise") return orderInWords(verdict.ranking);
  if (verdict.ranking.length === 1) return "tie";
  return `${letter(verdict.ranking[0][0])} ${verdict.strength === "slightly" ? "slightly better" : "better"}`;
}

const whole = new Intl.NumberFormat("en");

export function count(number, noun) {
  return `${whole.format(number)} ${noun}${number === 1 ? "" : "s"}`;
}

export function durationInWords(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "less than a minute";
  if (minutes < 60) return `about ${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 10 && minutes % 60
    ? `about ${hours} h ${minutes % 60} min`
    : `about ${whole.format(Math.round(minutes / 60))} h`;
}

export function progressInWords({ mine, quota, left, seconds_left, percent }) {
  const parts = [quota === null ? `${whole.format(mine)} by you` : `${mine} of your ${quota}`];
  if (quota === null && left > 0) parts.push(`about ${whole.format(left)} more`);
  if (seconds_left > 0) parts.push(`${durationInWords(seconds_left)} left`);
  if (percent > 0) parts.push(`${percent} % of all`);
  return parts.join(" · ");
}
