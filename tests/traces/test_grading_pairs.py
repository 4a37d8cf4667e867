"""What counts as the same answer: one pair a line, the completion's answer and the gold one."""

import pytest

from ssgr.traces.grading import equivalent

SAME = r"""
2\frac{1}{2} || \frac{5}{2}
2 1/2 || 5/2
2\ \frac12 || 2.5
-2\frac{1}{2} || -2.5
50\% || 50
50\% || 0.5
50% || \frac12
\$18 || 18
18 dollars || \$18
\$18.00 || 18
\$1,234.50 || 1234.5
15 cm || 15\text{ cm}
15 || 15\mbox{ cm}^2
15\text{ square centimeters} || 15\mbox{ cm}^2
15\,\mathrm{cm}^2 || 15\mbox{ cm}^2
10\text{ inches} || 10\text{ in}
45 degrees || 45^\circ
45° || 45^{\circ}
\pi/2 || \frac{\pi}{2}
[1,2] || [1, 2]
(1,2] || (1,2]
\left(-\infty, 3\right) || (-\infty,3)
(-∞, 3) || (-\infty,3)
[-2,5)\cup(7,\infty) || [-2, 5) \cup (7, \infty)
x \in [1,2] || [1,2]
1 \le x \le 2 || [1,2]
x > 3 || (3,\infty)
\{1,2,3\} || \{3,2,1\}
1, 2 || 2,1
1 \text{ and } 2 || 1,2
-12, -30 || -12 \text{ or } -30
x=1 \text{ or } x=2 || 1,2
x = 1, x = 2 || 1,2
x=1,2 || 1,2
6, 8, 10 || 6, 8\text{, and }10
\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix} || \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{pmatrix} \frac{8}{3} \\ \frac{4}{3} \end{pmatrix} || \begin{pmatrix} 8/3 \\ 4/3 \end{pmatrix}
\begin{pmatrix}8/3\\4/3\end{pmatrix} || \begin{pmatrix} 8/3 \\[6pt] 4/3 \end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix}. || \begin{pmatrix} 1 \\ 2 \end{pmatrix}
Tuesday || \text{Tuesday}
tuesday. || \text{Tuesday}
\textbf{Tuesday} || \mbox{Tuesday}
a circle || \text{circle}
B || \text{(B)}
(B) || \text{B}
\textbf{(B)}\ 17 || B
\textbf{(B) } 17 || 17
B. 17 || B
(b) || \text{(B)}
A and C || \text{A,C}
C, A || \text{A,C}
1,000,000 || 1000000
1{,}000 || 1000
1\,000 || 1000
10\,000\pi || 10,000\pi
x = 5 || 5
5 || x = 5
x=5. || 5
5. || 5
f(x) = 2x+1 || 2x+1
y = 2x + 3 || 2x+3
y - 2x = 3 || y = 2x+3
1011_2 || 1011_{2}
1011 || 1011_2
A5_{11} || \text{A5}_{11}
4 || \mbox{four}
0.67 || \$\dfrac23 \approx \$0.67
\frac23 || \$\dfrac23 \approx \$0.67
8.24 || \approx 8.24 \text{ mph}
8:34 PM || 8\!:\!34 \text{ p.m.}
8:34 || 8\!:\!34 \text{ p.m.}
9:00 am || 9\text{ a.m.}
3:4 || 3:4
2\sqrt{3} || \sqrt{12}
3 \pm \sqrt{2} || 3+\sqrt2, 3-\sqrt{2}
\frac{1}{2}, -3 || -3, \frac12
(x-1)(x+2) || x^2+x-2
\frac{\sqrt3}{3} || \frac{1}{\sqrt{3}}
0.333333 || 1/3
2.236068 || \sqrt5
\dfrac{1}{2} || \tfrac12
\frac{-1}{2} || -\frac{1}{2}
-\frac{1}{-2} || \frac12
12\frac{1}{2}\text{ feet} || 12.5
\boxed{5} || 5
2^{10} || 1024
3\times10^5 || 300000
10^{-3} || 0.001
1+2i || 2i + 1
e^{i\pi/3} || e^{\frac{\pi i}{3}}
\sin x || \sin(x)
\text{no solution} || no solution
\emptyset || \varnothing
15\text{ apples} || 15
\text{Yes} || yes
True || \text{true}
p - q || -q+p
\cos^2 \alpha || (\cos\alpha)^2
6 - 5i || 6-5i
\frac{x+2}{7} || \frac{1}{7}(x+2)
11\sqrt2 || 11 \sqrt {2}
x^2 + 4x || x(x+4)
\log_2 3 || \log_{2}{3}
n! || n!
(3, \frac{\pi}{2}) || \left( 3, \frac{\pi}{2} \right)
**5** || 5
$\frac{1}{2}$ || 0.5
\(\frac{1}{2}\) || 0.5
120 \text{ ways} || 120
24 hours || 24
\frac{270}7\text{ degrees} || \frac{270}{7}
x = 1011_2 || 1011_2
\frac \pi4 || \frac{\pi}{4}
11,\! 111,\! 100 || 11111100
45^\circ,135^\circ || 45^\circ, 135^\circ
81,256 || 81, 256
\sqrt71 || \sqrt{71}
\log_{2}8 || 3
x \in [-2,7] || [-2,7]
"""

OTHER = r"""
Tuesday || Tuesday1
Tuesday1 || \text{Tuesday}
2 1/2 || 21/2
1 2 || 12
15\text{ cm} || 15\text{ m}
9\text{ a.m.} || 9 p.m.
[1,2] || (1,2)
(1,2] || [1,2)
(1,2) || (2,1)
\{1,2\} || (1,2)
1,2 || 1.2
1,2 || 12
1,23 || 123
1,234 || (1,234)
A || \text{(B)}
B,C || \text{A,C}
x=5 || y=5
1011_2 || 1011_3
1011_2 || 1011
1011 || 1111_2
11 || 1011_2
0.0000001 || 0
10^{-9} || 0
0.000000012 || 10^{-9}
0.33 || 1/3
5m || 5
3xyz || 3
3 \sec x || 3
2x || 2
5\% || 500
0.5\% || 50
1 || 1i
i || 1
x^2 || x_2
ab || ba1
-5 || 5
\begin{pmatrix}1\\2\end{pmatrix} || \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix} || \begin{pmatrix}1\\2\end{pmatrix}
\text{two lines} || \text{lines}
odd || even
neither || 0
five || 4
x>3 || x<3
x \ge 3 || x > 3
3 || 3, 4
3,4 || 3
1,1,2 || 1,2
\frac{1}{2} || \frac{2}{1}
\sqrt{2} || 2
\infty || -\infty
\pi || 3.14
\pi || 3
x+1 || x
June 20 || June 21
October 3 || October 30
CBAD || \text{ABCD}
\frac{1}{7}\triangle ABC || \frac{1}{7}
a || b
A || a1
\text{no} || \text{on}
evil || live
e || \text{E}1
A,B,C,D || \text{A,B,C}
(E) || 5
6:10 || 610
\frac{0}{0} || 1
\frac10 || \infty1
5 || 5!
2^3 || 23
2\cdot 3 || 23
x=1,y=2 || x=2,y=1
-\text{Saturday} || \text{Saturday}
-\text{A} || \text{A}
\frac{1}{204!} || \frac{1}{2004!}
-\frac{1}{2004!} || \frac{1}{2004!}
4\sqrt{6}1 || 4\sqrt{6}
5\text{ cm} || 0.5\text{ cm}
"""


def pairs(table: str) -> list[tuple[str, ...]]:
    return [tuple(line.split(" || ")) for line in table.strip().splitlines()]


@pytest.mark.parametrize(("answer", "gold"), pairs(SAME))
def test_the_same(answer, gold):
    assert equivalent(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), pairs(OTHER))
def test_not_the_same(answer, gold):
    assert not equivalent(answer, gold)
