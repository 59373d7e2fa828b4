# docker build -t wordweave-mfa -f aligners/data/mfa.Dockerfile .
# command = "docker run --rm --init -u 0 -v /scratch:/scratch -e MFA_ROOT_DIR=/mfa wordweave-mfa mfa", scratch = "/scratch"
FROM mmcauliffe/montreal-forced-aligner:latest
RUN mfa model download acoustic english_us_arpa && mfa model download dictionary english_us_arpa
